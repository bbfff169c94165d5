//! A pod's annotations, which go before the network's configuration.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::error::{Code, Error};
use crate::workloads::{annotations::PREFIX, pods::Sections};

/// Changes the steers and unwraps that the network has for all pods as a pod's annotations say.
///
/// # Errors
///
/// When an annotation is unknown or invalid, or could concern several sections.
pub(super) fn lay_over(
    annotations: &BTreeMap<String, String>,
    steer: &Sections,
    unwrap: &Sections,
) -> Result<(Sections, Sections), Error> {
    let (mut steer, mut unwrap) = (steer.clone(), unwrap.clone());
    let mut is_enabled = true;
    for (annotation, value) in annotations {
        let Some(key) = annotation.strip_prefix(PREFIX) else {
            continue;
        };
        let wrong = |reason| {
            let msg = format!("invalid annotation {annotation}: \"{value}\"");
            Error::new(Code::Network, msg, reason)
        };
        match key {
            "enabled" => {
                is_enabled = value
                    .parse()
                    .map_err(|_| wrong("write \"true\" or \"false\""))?;
            }
            "steer-ports" => {
                only(&mut steer, Some("annotation"), wrong)?.insert("ports".into(), list(value));
            }
            "steer-to" => {
                let port: u64 = value
                    .parse()
                    .map_err(|_| wrong("write a port, such as \"15006\""))?;
                only(&mut steer, Some("annotation"), wrong)?.insert("to".into(), json!(port));
            }
            "unwrap-ports" => {
                only(&mut unwrap, None, wrong)?.insert("ports".into(), list(value));
            }
            _ => {
                return Err(wrong(
                    "the annotations are truepeer.io/enabled, steer-ports, steer-to and unwrap-ports",
                ));
            }
        }
    }
    Ok(if is_enabled {
        (steer, unwrap)
    } else {
        Default::default()
    })
}

/// The only section, or a new one if there is none.
fn only<'a>(
    sections: &'a mut Sections,
    name: Option<&str>,
    wrong: impl Fn(&'static str) -> Error,
) -> Result<&'a mut Map<String, Value>, Error> {
    if sections.is_empty() {
        let name = name.map(|name| ("name".to_owned(), json!(name)));
        sections.push(name.into_iter().collect());
    }
    match &mut sections[..] {
        [only] => Ok(only),
        _ => Err(wrong(
            "the network has several of these: it must have one, or none",
        )),
    }
}

/// A list of words, separated by commas.
fn list(text: &str) -> Value {
    text.split(',').map(str::trim).collect()
}
