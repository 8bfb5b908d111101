//! What the tool sees when it looks inside: the table of routes, and one address followed to its end (README, "Look
//! inside").

use agentd_protocol::api::{Force, Routes};
use agentd_protocol::edge::Absent;
use agentd_tests::World;
use serde_json::Value;

fn service(name: &str, repo: &str, more: &str) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\nrepo = \"{repo}\"\nref = \"main\"\nrun = \"exec python3 web.py\"\ndrain = \"1s\"\n\
         health = {{ path = \"/healthz\", interval = \"1s\" }}\n{more}\n"
    )
}

/// `api` at a host and stripped, `web` at the root, `jobs` for services alone.
fn started() -> World {
    let mut world = World::new();
    let repo = world.web_repo("all", "v1");
    let stack =
        service("api", &repo.url(), "host = \"example.com\"\npath = \"/api\"\nstrip_prefix = true\nreplicas = 2")
            + &service("web", &repo.url(), "path = \"/\"")
            + &service("jobs", &repo.url(), "public = false");
    world.stack(&stack);
    world.start();
    world.applied();
    world
}

fn routes(world: &World) -> Routes {
    let ran = world.ctl(&["routes", "--json"]);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

/// The exit code, and the way.
fn resolve(world: &World, name: &str) -> (i32, Value) {
    let ran = world.ctl(&["resolve", name, "--json"]);
    (ran.code, serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}")))
}

#[test]
fn routes_are_those_in_force_at_the_edge_in_match_order() {
    let mut world = started();
    let seen = routes(&world);
    assert_eq!(seen.force, Force::InForce);
    assert_eq!(Some(seen.generation), world.status().edge.generation);
    let places: Vec<_> = seen.routes.iter().map(|route| (route.path.as_str(), route.service.as_str())).collect();
    assert_eq!(places, [("/api", "api"), ("/", "web")]);
    let api = seen.services.iter().find(|service| service.name.as_str() == "api").unwrap();
    assert_eq!((api.absent, api.instances.iter().filter(|one| one.routed && one.ready).count()), (None, 2));

    let page = world.ctl(&["routes"]);
    assert_eq!(page.code, 0, "{page:?}");
    let ports: Vec<String> = api.instances.iter().map(|one| one.address.unwrap().to_string()).collect();
    assert!(ports.iter().all(|port| page.stdout.contains(port)), "{page:?}");
    for part in ["is in force", "example.com", "/api (stripped)", "jobs.svc.internal"] {
        assert!(page.stdout.contains(part), "{part} in {}", page.stdout);
    }

    assert_eq!(world.ctl(&["stop", "web"]).code, 0);
    let web = routes(&world).services.into_iter().find(|service| service.name.as_str() == "web").unwrap();
    assert_eq!(web.absent, Some(Absent::Stopped));
    assert!(world.ctl(&["routes"]).stdout.contains("none: stopped by the operator"));
    world.down();
    assert_eq!(world.ctl(&["routes"]).code, 4);
}

#[test]
fn a_name_is_followed_through_the_responder_to_its_instances() {
    let mut world = started();
    for name in ["api", "api.svc.internal", &format!("http://api.svc.internal:{}/x?y", world.internal_port)] {
        let (code, way) = resolve(&world, name);
        assert_eq!((code, way["service"].as_str()), (0, Some("api")), "{name}: {way:#}");
        assert_eq!(way["name"]["answer"]["addresses"], serde_json::json!(["127.0.0.1"]), "{way:#}");
        assert_eq!(way["instances"].as_array().unwrap().len(), 2);
    }
    let page = world.ctl(&["resolve", "jobs"]);
    assert_eq!(page.code, 0, "{page:?}");
    for part in ["jobs.svc.internal", "answers 127.0.0.1", "ready", "curl -H 'Host: jobs.svc.internal'"] {
        assert!(page.stdout.contains(part), "{part} in {}", page.stdout);
    }

    let (code, way) = resolve(&world, "nobody");
    assert_eq!((code, way["name"]["answer"]["state"].as_str()), (5, Some("no-name")), "{way:#}");
    let unknown = world.ctl(&["resolve", "nobody.svc.internal"]);
    assert_eq!(unknown.code, 5);
    assert!(unknown.stdout.contains("there is no service `nobody`; known are api, jobs, web"), "{unknown:?}");

    let (code, way) = resolve(&world, "http://api.svc.internal:1/");
    assert_eq!(code, 6, "{way:#}");
    assert!(way["problems"][0].as_str().unwrap().ends_with(&format!("port {}, not on 1", world.internal_port)));
    assert_eq!(world.ctl(&["stop", "jobs"]).code, 0);
    let stopped = world.ctl(&["resolve", "jobs"]);
    assert_eq!(stopped.code, 6, "{stopped:?}");
    assert!(stopped.stdout.contains("stopped by the operator; `agentctl start jobs` starts it"), "{stopped:?}");
    assert_eq!(world.ctl(&["resolve", "https://api/"]).code, 2);
    world.down();
}

#[test]
fn an_address_from_outside_leads_where_the_proxy_sends_it() {
    let mut world = started();
    for (address, host, path, expected) in [
        ("/api/x", "127.0.0.1", "/api/x", Some("web")),
        ("http://example.com/api/x?y=/", "example.com", "/api/x", Some("api")),
        ("http://EXAMPLE.com./apix", "EXAMPLE.com.", "/apix", Some("web")),
        ("other.test/", "other.test", "/", Some("web")),
    ] {
        let (code, way) = resolve(&world, address);
        assert_eq!((code, way["service"].as_str()), (0, expected), "{address}: {way:#}");
        let path = format!("{}/env", path.trim_end_matches('/'));
        let answer = world.request(reqwest::Method::GET, &path, &[("host", host)], Vec::new()).unwrap();
        assert_eq!(answer.json()["SERVICE_NAME"].as_str(), expected, "{address}: the proxy thinks so too");
    }
    let (_, way) = resolve(&world, "http://example.com/api/x");
    assert_eq!((way["route"]["path"].as_str(), way["route"]["strip_prefix"].as_bool()), (Some("/api"), Some(true)));
    let repo = world.web_repo("one", "v1");
    world.stack(&service("api", &repo.url(), "path = \"/api\""));
    world.until("the root leads nowhere", |world| world.get("/other").status == 404);
    let nowhere = world.ctl(&["resolve", "/other"]);
    assert_eq!(nowhere.code, 5, "{nowhere:?}");
    assert!(nowhere.stdout.contains("no route fits /other: it is answered 404"), "{nowhere:?}");
    world.down();
}
