//! Interfaces, by what they are: a node's uplink has another name on the next node, and pods come and go.

use std::{collections::BTreeSet, fmt, ops::Range};

use anyhow::Result;

use super::{
    problem::Problems,
    section::Section,
    selector::{DEFAULT_ROUTE, LOOPBACK, PODS, Selector},
};
use crate::host::netns::{Interface, Links, Netns, is_interface_name};

/// The interfaces that a section is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interfaces(Vec<Selector>);

impl Interfaces {
    /// Reads a key that has one, or a list; `None` if it is missing or holds something else.
    pub(super) fn read(
        key: &str,
        section: &Section<'_, '_>,
        problems: &mut Problems,
    ) -> Option<Self> {
        let is_list = section.get(key)?.get_ref().is_array();
        let texts = match is_list {
            true => section.strings(key, problems)?,
            false => vec![section.string(key, problems)?],
        };
        let mut selectors = Vec::new();
        for (text, span) in texts {
            let selector = Selector::parse(text);
            check(key, text, span.clone(), problems);
            if selectors.contains(&selector) {
                problems.add(
                    span,
                    format!("`{key}` names {text} twice"),
                    Some("name it once".into()),
                );
            }
            selectors.push(selector);
        }
        Some(Self(selectors))
    }

    /// Reads the key `interface`, which has at least one.
    pub(super) fn some(section: &Section<'_, '_>, problems: &mut Problems) -> Option<Self> {
        let help = format!("write `interface = [\"{DEFAULT_ROUTE}\"]`, for example");
        section.refuse_empty("interface", "no interface is concerned", help, problems);
        Self::read("interface", section, problems)
    }

    /// Reads the key `interface` of a section that needs it.
    pub(super) fn required(section: &Section<'_, '_>, problems: &mut Problems) -> Option<Self> {
        section.require("interface", "\"eth0\"", problems);
        Self::some(section, problems)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that it selects in a network namespace now.
    ///
    /// # Errors
    ///
    /// When they cannot be listed.
    pub fn of(&self, netns: &Netns) -> Result<Vec<Interface>> {
        let links = netns.links(Self::need_routes([self]))?;
        Ok(self.among(&links).into_iter().cloned().collect())
    }

    /// What it is made of.
    pub fn selectors(&self) -> &[Selector] {
        &self.0
    }

    /// The names that it has, as opposed to what it says of names.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|selector| match selector {
            Selector::Named(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Those of the `links` that it selects, each once.
    pub fn among<'a>(&self, links: &'a Links) -> Vec<&'a Interface> {
        let interfaces = links.interfaces.iter();
        let selected = interfaces.filter(|i| self.0.iter().any(|s| s.selects(i, links)));
        selected.collect()
    }

    /// Whether packets of a network namespace to itself come in by one of them.
    pub(super) fn has_loopback(&self) -> bool {
        self.named().any(|name| name == LOOPBACK)
    }

    /// Whether packets of others come in by one of them.
    pub(super) fn has_others(&self) -> bool {
        let loopback = Selector::Named(LOOPBACK.to_owned());
        self.0.iter().any(|selector| *selector != loopback)
    }

    /// Whether an interface is certainly among both.
    pub(crate) fn share(&self, other: &Self) -> bool {
        let shared = |a: &Selector| other.0.iter().any(|b| a.shares_with(b));
        self.0.iter().any(shared)
    }

    /// Whether default routes have to be known.
    pub fn need_routes<'a>(all: impl IntoIterator<Item = &'a Self>) -> bool {
        let mut selectors = all.into_iter().flat_map(|interfaces| &interfaces.0);
        selectors.any(|selector| matches!(selector, Selector::DefaultRoute | Selector::Pods))
    }

    /// The names of those that any of `all` selects among the `links`, and those that any of them names.
    pub fn names<'a>(
        all: impl IntoIterator<Item = &'a Self>,
        links: &'a Links,
    ) -> BTreeSet<&'a str> {
        let of = |interfaces: &'a Self| {
            let found = interfaces.among(links).into_iter();
            found.map(|i| i.name.as_str()).chain(interfaces.named())
        };
        all.into_iter().flat_map(of).collect()
    }
}

impl From<Selector> for Interfaces {
    fn from(selector: Selector) -> Self {
        Self(vec![selector])
    }
}

/// The one with this name, or what it stands for.
impl From<&str> for Interfaces {
    fn from(text: &str) -> Self {
        Selector::parse(text).into()
    }
}

impl fmt::Display for Interfaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join(", "))
    }
}

/// Notes what no interface can be called, and no pattern can stand for.
fn check(key: &str, text: &str, span: Range<usize>, problems: &mut Problems) {
    if !is_interface_name(text) || text.contains(char::is_control) {
        let help = format!(
            "a name has 1 to 15 bytes without spaces, `/` or `:` (`ip -br link` lists them); \"veth*\", \"{DEFAULT_ROUTE}\" and \
             \"{PODS}\" stand for several"
        );
        problems.add(
            span,
            format!("`{key}` holds what cannot be an interface's name: \"{text}\""),
            Some(help),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, host::netns::Framing};

    fn links() -> Links {
        let interface = |(index, name, is_cable): (u32, &str, bool)| Interface {
            index,
            name: name.into(),
            is_cable,
            framing: (index != 6).then_some(Framing::Ethernet),
        };
        let all = [
            (1, "lo", false),
            (2, "eth0", false),
            (3, "eth1", true),
            (4, "cali12ab", true),
            (5, "veth7", true),
            // Nothing reads its packets.
            (6, "sit0", false),
        ];
        Links {
            interfaces: all.map(interface).into(),
            default_routes: [3].into(),
        }
    }

    fn interfaces(texts: &[&str]) -> Interfaces {
        Interfaces(texts.iter().map(|text| Selector::parse(text)).collect())
    }

    #[test]
    fn interfaces_are_selected_by_what_they_are() {
        let links = links();
        let names = |texts: &[&str]| {
            let interfaces = interfaces(texts);
            let found = interfaces.among(&links).into_iter();
            found.map(|i| i.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(&["eth0"]), ["eth0"]);
        assert_eq!(names(&["eth*"]), ["eth0", "eth1"]);
        assert_eq!(names(&["*"]).len(), 4, "all but lo and sit0");
        assert_eq!(names(&["sit0"]), ["sit0"]);
        assert_eq!(names(&["default-route"]), ["eth1"]);
        assert_eq!(names(&["pods"]), ["cali12ab", "veth7"]);
        assert_eq!(names(&["pods", "default-route", "veth*", "eth9"]).len(), 3);
        let asked = interfaces(&["eth9", "pods"]);
        let all = Interfaces::names([&asked], &links);
        assert_eq!(Vec::from_iter(all), ["cali12ab", "eth9", "veth7"]);
    }

    #[test]
    fn what_certainly_shares_an_interface_is_known() {
        let share = |a: &[&str], b: &[&str]| interfaces(a).share(&interfaces(b));
        assert!(share(&["eth0"], &["eth0", "eth1"]));
        assert!(share(&["eth*"], &["eth1"]) && share(&["eth1"], &["pods", "eth*"]));
        assert!(share(&["pods"], &["pods"]));
        assert!(share(&["eth*"], &["*"]) && share(&["eth0*"], &["eth*"]));
        // They may, on one node or another.
        assert!(!share(&["pods"], &["veth*"]) && !share(&["default-route"], &["eth0"]));
        assert!(!share(&["lo"], &["*"]));
    }

    #[test]
    fn one_or_a_list_is_read_and_what_is_wrong_is_told() {
        let parse = |value: &str| {
            let text = format!("[[carry.node]]\ninterface = {value}\nports = [\"80\"]");
            Config::parse(&text, "test")
        };
        let read = |value: &str| parse(value).unwrap().carry_node[0].interface.to_string();
        assert_eq!(read("\"eth0\""), "eth0");
        assert_eq!(read("[\"default-route\", \"pods\"]"), "default-route, pods");
        for (wrong, told) in [
            ("[]", "no interface is concerned"),
            ("[\"pods\", \"pods\"]", "names pods twice"),
            ("\"eth 0\"", "cannot be an interface's name"),
            ("7", "not a string"),
            ("[7]", "not a string"),
        ] {
            let error = parse(wrong).unwrap_err().to_string();
            assert!(error.contains(told), "{wrong}: {error}");
        }
    }
}
