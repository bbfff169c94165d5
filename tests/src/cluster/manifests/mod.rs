//! The manifests and the chart in `deploy/`, as kubectl and Helm make them, and as Kubernetes judges them.

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::host::process::find;

/// The oldest version of Kubernetes that the manifests are for, and the newest whose schemas are at hand.
const VERSIONS: [&str; 2] = ["1.30", "1.37"];

/// The project's directory `deploy`.
pub fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// What `kubectl apply -k` applies of a directory below `deploy/kustomize`.
pub fn kustomize(name: &str) -> Result<Vec<Value>> {
    let directory = deploy().join("kustomize").join(name);
    let mut command = Command::new(find("KUBECTL_BIN", "kubectl")?);
    let text = piped(command.arg("kustomize").arg(&directory), "")?;
    Ok(serde_saphyr::from_multiple(&text)?)
}

/// What Helm installs of the chart, with each of these values; it has uninstalled all of it, too.
///
/// # Errors
///
/// Helm's own message, such as for a wrong value.
pub fn helm(values: &[Value]) -> Result<Vec<Vec<Value>>> {
    let mut command = python("helm.py")?;
    command
        .arg(deploy().join("helm/truepeer"))
        // Helm's library keeps its releases itself, and not as Secrets.
        .env("HELM_DRIVER", "memory");
    let text = piped(&mut command, &serde_json::to_string(values)?)?;
    Ok(serde_json::from_str(&text)?)
}

/// Validates each object against the schemas of its kind.
pub fn validate(objects: &[Value]) -> Result<()> {
    let input = serde_json::to_string(objects)?;
    let own = piped(python("validate.py")?.args(VERSIONS), &input)?;
    let mut node = Command::new("node");
    let custom = piped(node.arg(script("custom.mjs")).arg(tools()?), &input)?;
    let known = count(&own)? / VERSIONS.len() + count(&custom)?;
    ensure!(
        known == objects.len(),
        "{known} of {} objects have a schema",
        objects.len()
    );
    Ok(())
}

/// The only object of this kind.
pub fn only<'a>(objects: &'a [Value], kind: &str) -> Result<&'a Value> {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    match (found.next(), found.next()) {
        (Some(object), None) => Ok(object),
        _ => bail!("not one {kind}"),
    }
}

/// Runs a command with this input; what it printed.
pub fn piped(command: &mut Command, input: &str) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {:?}", command.get_program()))?;
    let mut stdin = child.stdin.take().context("standard input")?;
    let output = std::thread::scope(|scope| {
        // It may end without reading all of it.
        scope.spawn(move || drop(stdin.write_all(input.as_bytes())));
        child.wait_with_output()
    })?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{:?}: {}", command.get_program(), errors.trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn count(printed: &str) -> Result<usize> {
    printed
        .trim()
        .parse()
        .with_context(|| format!("{printed:?}"))
}

fn python(name: &str) -> Result<Command> {
    let mut command = Command::new("python3");
    command.arg(script(name)).env("PYTHONPATH", tools()?);
    Ok(command)
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/cluster/manifests")
        .join(name)
}

/// Where Helm's library and the schemas are.
fn tools() -> Result<PathBuf> {
    let tools = env::var_os("CLUSTER_TOOLS")
        .context("CLUSTER_TOOLS is not set: run `cargo xtask test`, which installs them")?;
    Ok(tools.into())
}
