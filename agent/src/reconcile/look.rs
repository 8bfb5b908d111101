//! What `agentctl routes` and `agentctl resolve` are told (pure but for the reading of views).

use agentd_protocol::api::{Force, RoutedInstance, RoutedService, Routes};
use agentd_protocol::edge::{Service, Snapshot};

use super::Handle;
use super::routing::{Published, Views, backend};
use super::worker::release_of;
use crate::edge::EdgeView;
use crate::supervisor::InstanceView;

impl Handle {
    /// The table by which the edge routes, or by which it should.
    pub fn routes(&self) -> Routes {
        let hosts = self.rooms.hosts.for_instances();
        let published = self.rooms.routing.published();
        // Copies, as two borrows at once may each wait for the other's writer.
        let (views, edge) = (self.rooms.supervisor.view().borrow().clone(), self.rooms.edge.view().borrow().clone());
        let routes = routes(&published, &views, &edge);
        Routes { hosts_file: hosts.map(|path| path.display().to_string()), ..routes }
    }
}

fn routes(published: &Published, views: &Views, edge: &EdgeView) -> Routes {
    let Published { in_force, refused } = published;
    Routes {
        generation: in_force.generation,
        force: force(in_force, refused.as_deref(), edge),
        health_path: in_force.health_path.clone(),
        routes: in_force.routes_in_match_order(),
        suffix: in_force.suffix.clone(),
        services: in_force.services.iter().map(|service| routed(service, views)).collect(),
        hosts_file: None,
    }
}

fn force(in_force: &Snapshot, refused: Option<&str>, edge: &EdgeView) -> Force {
    match (refused, &edge.edge) {
        (_, None) => Force::Away,
        (Some(cause), Some(_)) => Force::Behind { cause: cause.to_owned() },
        (None, Some(_)) if edge.generation == Some(in_force.generation) => Force::InForce,
        (None, Some(_)) => {
            let has = edge.generation.map_or_else(|| "none".to_owned(), |generation| generation.to_string());
            Force::Behind { cause: format!("the edge has generation {has}, {} is on its way", in_force.generation) }
        }
    }
}

fn routed(service: &Service, views: &Views) -> RoutedService {
    let mine = |view: &&InstanceView| view.service == service.name.as_str();
    let instances: Vec<RoutedInstance> =
        views.values().filter(mine).filter_map(|view| instance(service, view)).collect();
    let absent = service.backends.is_empty().then_some(service.absent);
    RoutedService { name: service.name.clone(), absent, instances }
}

fn instance(service: &Service, view: &InstanceView) -> Option<RoutedInstance> {
    let backend = backend(view);
    Some(RoutedInstance {
        id: view.id.clone(),
        release: release_of(view)?,
        routed: backend.as_ref().is_some_and(|backend| service.backends.contains(backend)),
        address: backend.map(|backend| backend.address),
        ready: view.is_ready(),
        phase: view.phase.name().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use agentd_protocol::edge::{Absent, Route};
    use agentd_protocol::ids::Generation;

    use super::super::testing::{failing, id, name, not_ready, ready, views};
    use super::*;
    use crate::edge::EdgeProcess;

    fn table(backends: &[InstanceView]) -> Published {
        let service = Service {
            name: name("api"),
            backends: backends.iter().filter_map(backend).collect(),
            absent: Absent::Starting,
        };
        let route = |host: Option<&str>, path: &str| Route {
            host: host.map(Into::into),
            path: path.into(),
            strip_prefix: false,
            service: name("api"),
        };
        let in_force = Snapshot {
            generation: Generation(4),
            health_path: None,
            routes: vec![route(None, "/"), route(None, "/a"), route(Some("h.test"), "/")],
            services: vec![service],
            suffix: "svc.test".into(),
            client_address: Default::default(),
        };
        Published { in_force, refused: None }
    }

    fn edge(generation: u64) -> EdgeView {
        let edge = Some(EdgeProcess { pid: 1, build: String::new() });
        EdgeView { edge, generation: Some(Generation(generation)), ..EdgeView::default() }
    }

    #[test]
    fn a_table_is_in_force_when_the_edge_says_so() {
        let of = |published: &Published, edge: &EdgeView| routes(published, &views([]), edge).force;
        assert_eq!(of(&table(&[]), &edge(4)), Force::InForce);
        assert_eq!(of(&table(&[]), &EdgeView::default()), Force::Away);
        assert!(matches!(of(&table(&[]), &edge(3)), Force::Behind { cause } if cause.contains("generation 3")));
        let refused = Published { refused: Some("why".into()), ..table(&[]) };
        assert_eq!(of(&refused, &edge(4)), Force::Behind { cause: "why".into() });
    }

    #[test]
    fn routes_stand_in_match_order_and_instances_with_what_they_get() {
        let seen = views([ready('a'), failing('b'), not_ready('c')]);
        let told = routes(&table(&[ready('a')]), &seen, &edge(4));
        let places: Vec<_> = told.routes.iter().map(|route| (route.host.as_deref(), route.path.as_str())).collect();
        assert_eq!(places, [(Some("h.test"), "/"), (None, "/a"), (None, "/")]);
        let api = &told.services[0];
        assert_eq!(api.absent, None);
        let gets: Vec<_> = api.instances.iter().map(|one| (one.id.clone(), one.routed, one.ready)).collect();
        assert_eq!(gets, [(id('a'), true, true), (id('b'), false, false), (id('c'), false, false)]);
        assert_eq!(routes(&table(&[]), &seen, &edge(4)).services[0].absent, Some(Absent::Starting));
    }
}
