//! What the zone answers: a pure function of its names and one question.

use std::collections::HashSet;

use agentd_protocol::ids::{Generation, ServiceName};

use super::Error;

/// Clients ask again after this: a service that left is gone for them as soon.
pub(super) const TTL_S: u32 = 5;
/// How long a client may remember that there is nothing (RFC 2308): a service that is about to come must not wait long.
pub(super) const NEGATIVE_TTL_S: u32 = 2;
/// The zone's name server, which exists for NS and SOA to name it.
pub(super) const NAMESERVER: &str = "ns";

/// A name has 253 bytes of text (RFC 1035 §2.3.4), a service's label and its dot take up to 64.
const SUFFIX_BYTES_MAX: usize = 189;

/// RFC 1035 §3.2.4.
const CLASS_IN: u16 = 1;

/// The types of question that are more than "is there such a record" (IANA DNS parameters).
mod kind {
    pub(super) const A: u16 = 1;
    pub(super) const NS: u16 = 2;
    pub(super) const SOA: u16 = 6;
    pub(super) const IXFR: u16 = 251;
    pub(super) const AXFR: u16 = 252;
    pub(super) const ANY: u16 = 255;
}

/// All names there are. Immutable; replaced as a whole.
#[derive(Debug)]
pub struct Zone {
    /// `svc`, `internal`.
    suffix: Vec<Box<[u8]>>,
    services: HashSet<Box<[u8]>>,
    /// Grows with every change, as far as 32 bits go (RFC 1982).
    serial: u32,
}

/// One question; labels as the client wrote them, the root's empty one left out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) labels: &'a [&'a [u8]],
    pub(super) kind: u16,
    pub(super) class: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Not our zone, or nothing we give away.
    Refused,
    /// One record set, whose owner is the name that was asked for.
    Found(Found),
    /// The name exists and has no record of this type: NOERROR with the SOA.
    NoData,
    /// NXDOMAIN with the SOA. Never for a name that exists, whatever the type: some clients give up on the whole name.
    NoName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// 127.0.0.1
    Loopback,
    Soa,
    Nameserver,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Apex,
    /// A service or the name server.
    Host,
}

impl Zone {
    pub fn new<'a>(
        suffix: &str,
        services: impl IntoIterator<Item = &'a ServiceName>,
        generation: Generation,
    ) -> Result<Self, Error> {
        // The labels of a suffix are formed as those of services are.
        let well_formed = suffix.split('.').all(|label| ServiceName::new(label).is_ok());
        if !well_formed || suffix.len() > SUFFIX_BYTES_MAX {
            return Err(Error::BadSuffix { suffix: suffix.to_owned() });
        }
        let label = |text: &str| Box::from(text.as_bytes());
        Ok(Self {
            suffix: suffix.split('.').map(label).collect(),
            services: services.into_iter().map(|name| label(name.as_str())).collect(),
            serial: u32::try_from(generation.0 & u64::from(u32::MAX)).expect("masked to 32 bits"),
        })
    }

    pub(super) fn suffix(&self) -> impl Iterator<Item = &[u8]> {
        self.suffix.iter().map(|label| &**label)
    }

    pub(super) fn serial(&self) -> u32 {
        self.serial
    }

    /// What stands before the suffix; `None` outside the zone.
    fn inner<'a, 'q>(&self, labels: &'q [&'a [u8]]) -> Option<&'q [&'a [u8]]> {
        let (inner, end) = labels.split_at_checked(labels.len().checked_sub(self.suffix.len())?)?;
        let same = end.iter().zip(&self.suffix).all(|(asked, ours)| asked.eq_ignore_ascii_case(ours));
        same.then_some(inner)
    }

    fn owner(&self, inner: &[&[u8]]) -> Option<Owner> {
        match inner {
            [] => Some(Owner::Apex),
            [label] => {
                let label = label.to_ascii_lowercase();
                let exists = label == NAMESERVER.as_bytes() || self.services.contains(label.as_slice());
                exists.then_some(Owner::Host)
            }
            _ => None,
        }
    }
}

pub(super) fn answer(zone: &Zone, question: &Question<'_>) -> Answer {
    let transfer = matches!(question.kind, kind::AXFR | kind::IXFR);
    let Some(inner) = zone.inner(question.labels) else { return Answer::Refused };
    if question.class != CLASS_IN || transfer {
        return Answer::Refused;
    }
    match (zone.owner(inner), question.kind) {
        (None, _) => Answer::NoName,
        // ANY gets one record set, not all there is (RFC 8482 §4.1).
        (Some(Owner::Apex), kind::SOA | kind::ANY) => Answer::Found(Found::Soa),
        (Some(Owner::Apex), kind::NS) => Answer::Found(Found::Nameserver),
        (Some(Owner::Host), kind::A | kind::ANY) => Answer::Found(Found::Loopback),
        // AAAA too: nothing listens on ::1, and clients would try it first.
        (Some(Owner::Apex | Owner::Host), _) => Answer::NoData,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AAAA: u16 = 28;
    const HTTPS: u16 = 65;

    fn zone() -> Zone {
        let names = ["api", "my-web", "x"].map(|name| ServiceName::new(name).unwrap());
        Zone::new("svc.internal", &names, Generation(7)).unwrap()
    }

    fn ask(name: &str, kind: u16, class: u16) -> Answer {
        let labels: Vec<&[u8]> = name.split('.').filter(|label| !label.is_empty()).map(str::as_bytes).collect();
        answer(&zone(), &Question { labels: &labels, kind, class })
    }

    #[test]
    fn every_kind_of_name_and_type() {
        use Answer::{Found as F, NoData, NoName, Refused};
        for (name, kind, expected) in [
            ("api.svc.internal", kind::A, F(Found::Loopback)),
            ("my-web.svc.internal", kind::A, F(Found::Loopback)),
            ("aPi.SVC.inTernal", kind::A, F(Found::Loopback)),
            ("api.svc.internal", kind::ANY, F(Found::Loopback)),
            ("api.svc.internal", AAAA, NoData),
            ("api.svc.internal", HTTPS, NoData),
            ("api.svc.internal", 1000, NoData),
            ("api.svc.internal", kind::SOA, NoData),
            ("api.svc.internal", kind::AXFR, Refused),
            ("ns.svc.internal", kind::A, F(Found::Loopback)),
            ("ns.svc.internal", AAAA, NoData),
            ("svc.internal", kind::SOA, F(Found::Soa)),
            ("SVC.internal", kind::NS, F(Found::Nameserver)),
            ("svc.internal", kind::ANY, F(Found::Soa)),
            ("svc.internal", kind::A, NoData),
            ("svc.internal", 48, NoData),
            ("svc.internal", kind::AXFR, Refused),
            ("svc.internal", kind::IXFR, Refused),
            ("gone.svc.internal", kind::A, NoName),
            ("gone.svc.internal", AAAA, NoName),
            ("gone.svc.internal", kind::ANY, NoName),
            ("x.api.svc.internal", kind::A, NoName),
            ("_http._tcp.api.svc.internal", 33, NoName),
            ("*.svc.internal", kind::A, NoName),
            ("svc.internal.svc.internal", kind::A, NoName),
            ("internal", kind::A, Refused),
            ("", kind::NS, Refused),
            ("example.com", kind::A, Refused),
            ("api.svc.internal.com", kind::A, Refused),
            ("apisvc.internal", kind::A, Refused),
            ("1.0.0.127.in-addr.arpa", 12, Refused),
        ] {
            assert_eq!(ask(name, kind, CLASS_IN), expected, "{name} {kind}");
        }
    }

    #[test]
    fn other_classes_are_refused() {
        for class in [0, 3, 4, 254, 255, 65_535] {
            assert_eq!(ask("api.svc.internal", kind::A, class), Answer::Refused, "{class}");
            assert_eq!(ask("gone.svc.internal", kind::A, class), Answer::Refused, "{class}");
        }
    }

    #[test]
    fn the_serial_follows_the_generation_and_wraps() {
        let serial = |generation| Zone::new("s", [], Generation(generation)).unwrap().serial();
        assert_eq!((serial(7), serial(u64::from(u32::MAX) + 3)), (7, 2));
    }

    #[test]
    fn a_suffix_is_a_dns_name_with_room_before_it() {
        let long = [&"a".repeat(63); 3].map(String::as_str).join(".");
        for bad in ["", ".", "a.", ".a", "a..b", "A", "a_b", "a b", &"a".repeat(64), &long] {
            assert!(matches!(Zone::new(bad, [], Generation(1)), Err(Error::BadSuffix { .. })), "{bad}");
        }
        for good in ["internal", "svc.internal", "a.b.c-d.e", &long[2..]] {
            assert!(Zone::new(good, [], Generation(1)).is_ok(), "{good}");
        }
    }

    fn a_label() -> impl Strategy<Value = Vec<u8>> {
        let word = prop::sample::select(vec!["api", "API", "svc", "sVc", "internal", "INTERNAL", "ns", "x", "com"]);
        prop_oneof![4 => word.prop_map(|word| word.as_bytes().to_vec()), 1 => prop::collection::vec(any::<u8>(), 1..64)]
    }

    proptest! {
        /// Whatever is asked: outside the zone refused, inside found exactly when the name is one of ours.
        #[test]
        fn answers_agree_with_the_written_name(
            labels in prop::collection::vec(a_label(), 0..6),
            kind in prop_oneof![Just(kind::A), Just(kind::ANY), Just(kind::SOA), Just(AAAA), any::<u16>()],
            class in prop_oneof![8 => Just(CLASS_IN), 1 => any::<u16>()],
        ) {
            let labels: Vec<&[u8]> = labels.iter().map(Vec::as_slice).collect();
            let lower: Vec<Vec<u8>> = labels.iter().map(|label| label.to_ascii_lowercase()).collect();
            let name = lower.join(&b'.');
            let in_zone = lower.len() >= 2 && lower.ends_with(&[b"svc".to_vec(), b"internal".to_vec()]);
            let hosts: [&[u8]; 4] = [b"api.svc.internal", b"my-web.svc.internal", b"x.svc.internal", b"ns.svc.internal"];
            let is_host = lower.len() == 3 && hosts.contains(&name.as_slice());
            let found = answer(&zone(), &Question { labels: &labels, kind, class });
            let refused = !in_zone || class != CLASS_IN || matches!(kind, kind::AXFR | kind::IXFR);
            prop_assert_eq!(found == Answer::Refused, refused);
            if !refused {
                prop_assert_eq!(found == Answer::NoName, !is_host && lower.len() != 2);
                let loopback = is_host && matches!(kind, kind::A | kind::ANY);
                prop_assert_eq!(found == Answer::Found(Found::Loopback), loopback);
            }
        }
    }
}
