//! Reads the sections `[[trust]]`.

use std::collections::HashSet;
use std::ops::Range;

use agent_common::trust::{MAX_PROXIES, MAX_SENDERS, Reach, Statement};
use ipnet::IpNet;

use super::super::{
    fields::{Names, cgroups, optional_ports},
    problem::Problems,
    section::Section,
};
use super::{
    local_source,
    rule::{Proxy, Rule, Speakers, Trust},
};

pub(crate) const KEYS: [&str; 9] = [
    "name",
    "source",
    "uid",
    "cgroup",
    "says",
    "ports",
    "signed",
    "reach",
    local_source::KEY,
];
/// Who can speak: a rule is about one kind.
const SPEAKERS: [&str; 3] = ["source", "uid", "cgroup"];
/// What a local proxy says: it binds to a client's address.
const BIND: &str = "bind";

/// A rule with its place in the text.
pub(crate) struct LocatedTrust {
    pub(crate) rule: Trust,
    pub(crate) span: Range<usize>,
}

/// Reads all sections.
pub(crate) fn read(sections: &[Section<'_, '_>], problems: &mut Problems) -> Vec<LocatedTrust> {
    let mut names = Names::of("rules");
    let mut owners = Owners::default();
    let mut rules = Vec::new();
    for section in sections {
        section.refuse_unknown(problems);
        let name = name(section, problems);
        let ports = optional_ports(section, problems);
        let Some(speakers) = speakers(section, problems) else {
            continue;
        };
        let rule = Trust {
            name,
            speakers,
            ports,
        };
        // A rule with a name has it whoever speaks.
        let mut named = rule.rules();
        named.dedup();
        for Rule { id, name } in named {
            names.add(id, &name, section.span.clone(), problems);
        }
        owners.add(&rule, section, problems);
        rules.push(LocatedTrust {
            rule,
            span: section.span.clone(),
        });
    }
    if let Some(last) = sections.last() {
        owners.check_size(last, problems);
    }
    rules
}

fn name(section: &Section<'_, '_>, problems: &mut Problems) -> Option<String> {
    let (name, span) = section.string("name", problems)?;
    if name.trim().is_empty() {
        let hint = "write \"edge\", for example, or leave `name` out";
        problems.add(span, "`name` is empty", Some(hint.into()));
    }
    Some(name.to_owned())
}

/// Who is believed, and about what; `None` if the section names nobody or several kinds.
fn speakers(section: &Section<'_, '_>, problems: &mut Problems) -> Option<Speakers> {
    let named: Vec<_> = SPEAKERS
        .into_iter()
        .filter(|key| section.get(key).is_some())
        .collect();
    let [kind] = named[..] else {
        let (message, hint) = if named.is_empty() {
            (
                "[[trust]] names nobody who is to be believed".to_owned(),
                "add one of `source = [\"10.0.0.0/8\"]`, `uid = [1337]` and `cgroup = [\"/system.slice/haproxy.service\"]`",
            )
        } else {
            (
                format!("[[trust]] has `{}` together", named.join("` and `")),
                "a rule is about one kind of speaker: write a rule for each",
            )
        };
        problems.add(section.span.clone(), message, Some(hint.into()));
        return None;
    };
    section.refuse_empty(
        kind,
        "the rule concerns nobody",
        "leave the rule out",
        problems,
    );
    let others: &[&str] = if kind == "source" {
        &["reach", local_source::KEY]
    } else {
        &["signed"]
    };
    for key in others {
        if let Some(value) = section.get(key) {
            let message = format!("`{key}` has no meaning beside `{kind}`");
            let hint = match *key {
                "signed" => "TOA comes from a `source`",
                _ => "it is about local proxies: `uid` or `cgroup`",
            };
            problems.add(value.span(), message, Some(hint.into()));
        }
    }
    Some(match kind {
        "source" => sources(section, problems),
        "uid" => {
            let uids = section.integers("uid", 0..=u32::MAX - 1, problems);
            let uids = uids.into_iter().flatten();
            proxies(
                section,
                uids.map(|(uid, _)| Proxy::Uid(uid)).collect(),
                problems,
            )
        }
        _ => {
            let cgroups = cgroups("cgroup", section, problems).into_iter();
            proxies(section, cgroups.map(Proxy::Cgroup).collect(), problems)
        }
    })
}

fn sources(section: &Section<'_, '_>, problems: &mut Problems) -> Speakers {
    const HINT: &str = "write \"toa\", \"proxy\" or \"xff\"";
    section.require("says", "[\"proxy\"]", problems);
    let mut says = Vec::new();
    for (word, span) in section.strings("says", problems).unwrap_or_default() {
        match Statement::ALL.into_iter().find(|s| s.name() == word) {
            Some(statement) => says.push(statement),
            None if word == BIND => problems.add(
                span,
                "only a process of this host can bind: it has no `source`",
                Some("name it by `uid` or `cgroup`".into()),
            ),
            None => problems.add(
                span,
                format!("`says` holds what nobody can say: \"{word}\""),
                Some(HINT.into()),
            ),
        }
    }
    let signed = section.boolean("signed", problems).unwrap_or(false);
    if signed
        && !says.contains(&Statement::Toa)
        && let Some(value) = section.get("signed")
    {
        problems.add(
            value.span(),
            "`signed` is about TOA, which the rule does not believe",
            Some("add \"toa\" to `says`, or leave `signed` out".into()),
        );
    }
    Speakers::Sources {
        prefixes: section.prefixes("source", problems),
        says,
        signed,
    }
}

fn proxies(section: &Section<'_, '_>, proxies: Vec<Proxy>, problems: &mut Problems) -> Speakers {
    let help = format!("write `says = [\"{BIND}\"]`, or leave the rule out");
    section.refuse_empty("says", "the rule believes nothing", help, problems);
    for (word, span) in section.strings("says", problems).unwrap_or_default() {
        if word != BIND {
            problems.add(
                span,
                format!("a local proxy cannot be believed to say \"{word}\""),
                Some(format!(
                    "it says \"{BIND}\"; what it sends over the network is believed by its `source`"
                )),
            );
        }
    }
    const REACHES: [(&str, Reach); 3] = [
        ("namespace", Reach::Namespace),
        ("host", Reach::Host),
        ("carry", Reach::Carry),
    ];
    Speakers::Proxies {
        proxies,
        reach: section.word("reach", &REACHES, problems).0,
        local_source: local_source::read(section, problems),
    }
}

/// Which rule decides about whom.
#[derive(Default)]
struct Owners {
    statements: HashSet<(IpNet, Statement)>,
    proxies: HashSet<Proxy>,
}

impl Owners {
    /// Notes it at the last section when all together are too large for the data path.
    fn check_size(&self, last: &Section<'_, '_>, problems: &mut Problems) {
        let prefixes: HashSet<_> = self.statements.iter().map(|(prefix, _)| prefix).collect();
        for (number, what, most) in [
            (prefixes.len(), "prefixes", MAX_SENDERS),
            (self.proxies.len(), "users and cgroups", MAX_PROXIES),
        ] {
            if number > most as usize {
                problems.add(
                    last.span.clone(),
                    format!("all rules together have {number} {what}, {most} are possible"),
                    Some("join neighbouring prefixes, or name a cgroup above the others".into()),
                );
            }
        }
    }

    /// Notes whom two rules decide about.
    fn add(&mut self, rule: &Trust, section: &Section<'_, '_>, problems: &mut Problems) {
        let mut twice = |what: String| {
            problems.add(
                section.span.clone(),
                format!("two rules decide about {what}"),
                Some("join the rules, or take it out of one of them".into()),
            );
        };
        match &rule.speakers {
            Speakers::Sources { prefixes, says, .. } => {
                // A rule that believes nothing decides about all.
                let says = if says.is_empty() {
                    &Statement::ALL[..]
                } else {
                    says
                };
                for prefix in prefixes {
                    for statement in says {
                        if !self.statements.insert((*prefix, *statement)) {
                            twice(format!("\"{}\" of {prefix}", statement.name()));
                        }
                    }
                }
            }
            Speakers::Proxies { proxies, .. } => {
                for proxy in proxies {
                    if !self.proxies.insert(proxy.clone()) {
                        twice(rule.of_proxy(proxy).name);
                    }
                }
            }
        }
    }
}
