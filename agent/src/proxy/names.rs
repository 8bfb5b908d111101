//! Which service a request from within belongs to: the one its Host names. Pure.

use std::collections::HashMap;

use agentd_protocol::ids::ServiceName;

use super::routes::{HOST_BYTES_MAX, Match, lower_name};

/// The names services have for each other: `<service>.<suffix>` and `<service>` alone.
#[derive(Debug, Default)]
pub struct Names {
    suffix: Box<str>,
    /// Positions in the snapshot's list.
    services: HashMap<Box<str>, usize>,
}

impl Names {
    pub fn build<'a>(suffix: &str, services: impl Iterator<Item = &'a ServiceName>) -> Self {
        let services = services.enumerate().map(|(position, name)| (name.as_str().into(), position));
        Self { suffix: suffix.into(), services: services.collect() }
    }

    /// `host` as the client sent it: port, case and a trailing dot are ignored. Allocates nothing.
    pub fn lookup(&self, host: Option<&str>) -> Option<Match> {
        let mut lower = [0; HOST_BYTES_MAX];
        let name = lower_name(host?, &mut lower)?;
        let service = match name.split_once('.') {
            Some((service, suffix)) if *suffix == *self.suffix => service,
            Some(_) => return None,
            None => name,
        };
        self.services.get(service).map(|position| Match { service: *position, strip_bytes: 0 })
    }
}

#[cfg(test)]
mod tests {
    use agentd_protocol::edge::{Absent, Service, matching};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_the_host_alone() {
        let [api, web] = ["api", "web-2"].map(|name| ServiceName::new(name).unwrap());
        let names = Names::build("svc.internal", [&api, &web].into_iter());
        let at = |host| names.lookup(host).map(|found| (found.service, found.strip_bytes));
        for host in
            ["api.svc.internal", "API.Svc.INTERNAL.", "api.svc.internal:8081", "api.svc.internal.:1", "api", "Api:80"]
        {
            assert_eq!(at(Some(host)), Some((0, 0)), "{host}");
        }
        assert_eq!(at(Some("web-2.svc.internal")), Some((1, 0)));
        let long = format!("{}.svc.internal", "a".repeat(300));
        for host in [
            "",
            ".",
            "svc.internal",
            ".svc.internal",
            "apii",
            "x.api.svc.internal",
            "api.svc.internal.com",
            "api.svc",
            "apisvc.internal",
            "api.svc.internal..",
            "127.0.0.1",
            "[::1]:8081",
            &long,
        ] {
            assert_eq!(at(Some(host)), None, "{host}");
        }
        assert_eq!(at(None), None);
        assert_eq!(Names::default().lookup(Some("api")), None);
    }

    proptest! {
        #[test]
        fn names_agree_with_the_plain_rule(
            labels in prop::collection::btree_set("[ab][a-c0-9-]?[a-c]", 0..6),
            host in prop_oneof![
                "[abAB][a-c0-9-]?[a-cA-C](\\.svc\\.internal|\\.SVC\\.internal|\\.svc|\\.other)?\\.?(:80)?",
                Just(String::new()),
                Just("svc.internal".to_owned()),
            ],
        ) {
            let services: Vec<Service> = labels.iter()
                .map(|label| Service {
                    name: ServiceName::new(label.clone()).unwrap(),
                    backends: Vec::new(),
                    absent: Absent::Starting,
                })
                .collect();
            let names = Names::build("svc.internal", services.iter().map(|service| &service.name));
            let found = names.lookup(Some(&host)).map(|found| found.service);
            prop_assert_eq!(found, matching::internal(&services, "svc.internal", &host));
        }
    }
}
