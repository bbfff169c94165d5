//! Each thing that a document can tell wrongly, in a made-up tree with programs that refuse `--wrong`.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// Stands for every program: refuses `--wrong` and configurations that have the word, and writes what
/// `config default` would.
const PROGRAM: &str = "#!/bin/sh
case \"$*\" in
*--wrong*) echo \"error: unexpected argument '--wrong'\" >&2; exit 2;;
*--help) ;;
'config default') echo '[agent]';;
'config check '*) if grep -n wrong \"$3\" >&2 || ! test -f \"$3\"; then echo \"$3\" >&2; exit 2; fi;;
esac
";

/// What is found in a document with this text.
fn find(text: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let values = r#"{"properties": {"image": {"properties": {"tag": {}}}}}"#;
    for (name, text) in [
        ("bin/truepeer", PROGRAM),
        ("agent/src/api/mod.rs", ".route(\"/v1/peers\", get(list))"),
        ("deploy/helm/truepeer/values.schema.json", values),
        ("deploy/istio/filter.yaml", ""),
    ] {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let program = root.join("bin/truepeer");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let programs = Programs {
        truepeer: program.clone(),
        xtask: program.clone(),
        bench: program,
    };
    let document = Document::parse("x.md".into(), text);
    let found = check(root, &[document], &programs).unwrap();
    found.iter().map(ToString::to_string).collect()
}

/// A document with one block, which begins on line 2.
fn block(info: &str, text: &str) -> String {
    format!("```{info}\n{text}\n```\n")
}

#[track_caller]
fn one(text: &str, start: &str, part: &str) {
    let found = find(text);
    assert_eq!(found.len(), 1, "{text}: {found:#?}");
    assert!(found[0].starts_with(start), "{text}: {found:#?}");
    assert!(found[0].contains(part), "{text}: {found:#?}");
}

#[test]
fn what_is_true_is_fine() {
    for line in [
        "$ truepeer peers --top 5   # who is busy?",
        "$ truepeer config default > t.toml\n$ truepeer config check t.toml",
        "$ A=1 sudo truepeer detach",
        // Parsed, but not run.
        "$ truepeer config default > /nowhere/t.toml",
        "$ truepeer config default > x/../../t.toml",
        "$ cargo xtask run -- --config x.toml\n$ cargo xtask bench -- --only accept",
        "$ sudo curl --unix-socket /run/s 'http://localhost/v1/peers?by=x'",
        "# (umask 077; openssl rand -hex 16 > /etc/keys)",
        "$ kubectl apply -f deploy/istio/filter.yaml\n--wrong is printed",
        "$ helm install t deploy/helm/truepeer \\\n    --set image.tag=1",
    ] {
        assert_eq!(find(&block("console", line)), [""; 0], "{line}");
    }
    for (info, text) in [
        ("toml", "[agent]"),
        ("toml no-check reason=a manifest", "wrong"),
        ("json", "{}"),
        ("rust", "fn main() {}"),
        ("", "a picture"),
        ("text", "a picture"),
    ] {
        assert_eq!(find(&block(info, text)), [""; 0], "{info}");
    }
    let code = "`truepeer peers`, `truepeer … --wrong`, `deploy/istio`, `to/be/seen`, `a --wrong`";
    assert_eq!(find(code), [""; 0]);
}

#[test]
fn a_wrong_command_is_found_by_its_line() {
    for (line, part) in [
        ("$ truepeer peers --wrong", "unexpected argument"),
        ("# true", "nothing checks the program `true`"),
        ("$ sudo truepeer peers | truepeer x --wrong", "unexpected"),
        ("$ cargo xtask test --wrong", "unexpected"),
        ("$ cargo xtask run -- --wrong", "unexpected"),
        ("$ cargo xtask bench -- --wrong", "unexpected"),
        ("$ cargo xtask test -- x", "behind `--`"),
        ("$ cargo build", "nothing checks the program `cargo`"),
        (
            "$ curl http://localhost/v1/nobody",
            "does not answer `/v1/nobody`",
        ),
        (
            "$ kubectl apply -f deploy/istio/gone.yaml",
            "there is no deploy/istio/gone.yaml",
        ),
        (
            "$ helm install t deploy/helm/truepeer --set image.gone=1",
            "no value `image.gone`",
        ),
        ("$ truepeer config check 'x", "a quote"),
        (
            "$ truepeer config default > t.toml; truepeer config check wrong/t.toml",
            "wrong/t.toml",
        ),
    ] {
        one(&block("console", line), "x.md:2: ", part);
    }
    // A harmless line is run: what it writes is there for the next.
    let lines = "$ truepeer config default > t.toml\n$ truepeer config check u.toml";
    one(&block("console", lines), "x.md:3: ", "u.toml");
}

#[test]
fn a_wrong_block_is_found() {
    for (info, text, part) in [
        ("toml", "[agent]\nwrong = 1", "3:wrong"),
        ("toml no-check", "", "no-check reason="),
        ("toml no-check reason=", "", "no-check reason="),
        ("toml x", "", "no-check reason="),
        ("json", "{", "EOF"),
        ("rust", "fn main( {}", "cannot parse"),
        ("sh", "true", "nothing checks `sh`"),
        ("", "$ truepeer peers", "mark it as `console`"),
        ("text", "$ truepeer peers", "mark it as `console`"),
    ] {
        one(&block(info, text), "x.md:2: ", part);
    }
    one(
        "text\n\n    truepeer peers --wrong\n",
        "x.md:3: ",
        "fence it",
    );
}

#[test]
fn wrong_code_in_a_sentence_is_found() {
    one("a\n`truepeer peers --wrong`", "x.md:2: ", "unexpected");
    one("a\n`cargo xtask test --wrong`", "x.md:2: ", "unexpected");
    one(
        "a\n`deploy/istio/gone.yaml`",
        "x.md:2: ",
        "there is no deploy/istio/gone.yaml",
    );
}
