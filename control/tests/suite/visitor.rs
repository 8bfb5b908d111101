//! Somebody with a browser, as far as the server can tell.

use reqwest::{Method, RequestBuilder, Response, StatusCode};

use crate::server::{CAP, Server};

pub(crate) const PASSWORD: &str = "correct horse battery staple";

pub(crate) struct Visitor {
    pub(crate) http: reqwest::Client,
    pub(crate) url: String,
    pub(crate) cookie: String,
}

impl Visitor {
    /// Whom nobody knows.
    pub(crate) fn at(server: &Server) -> Self {
        let http = agentd_sys::http::plain().redirect(reqwest::redirect::Policy::none()).timeout(CAP).build().unwrap();
        Self { http, url: server.url.clone(), cookie: String::new() }
    }

    /// The owner, by the link that the command line prints.
    pub(crate) async fn set_up(server: &Server) -> Self {
        let mut visitor = Self::at(server);
        let link = server.cli(&["user", "create-link"])["url"].as_str().unwrap().to_owned();
        let (_, secret) = link.split_once("link=").unwrap();
        let made = visitor.post("/setup", &[("link", secret), ("name", "owner"), ("password", PASSWORD)]).await;
        assert_eq!(made.status(), StatusCode::SEE_OTHER);
        visitor.cookie = cookie(&made);
        visitor
    }

    pub(crate) async fn log_in(&self) -> Self {
        let stranger = Self { http: self.http.clone(), url: self.url.clone(), cookie: String::new() };
        let entered = stranger.post("/login", &[("name", "owner"), ("password", PASSWORD)]).await;
        assert_eq!(entered.status(), StatusCode::SEE_OTHER);
        Self { cookie: cookie(&entered), ..stranger }
    }

    pub(crate) fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        if self.cookie.is_empty() { request } else { request.header("cookie", &self.cookie) }
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.ask(Method::GET, path).send().await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, form: &[(&str, &str)]) -> Response {
        self.form(path, form).send().await.unwrap()
    }

    /// `None`: the server went away before it answered.
    pub(crate) async fn try_post(&self, path: &str, form: &[(&str, &str)]) -> Option<u16> {
        self.form(path, form).send().await.ok().map(|answer| answer.status().as_u16())
    }

    fn form(&self, path: &str, form: &[(&str, &str)]) -> RequestBuilder {
        let request = self.ask(Method::POST, path).header("sec-fetch-site", "same-origin");
        request.header("content-type", FORM).body(encoded(form))
    }
}

pub(crate) const FORM: &str = "application/x-www-form-urlencoded";

pub(crate) fn encoded(form: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = form.iter().map(|(key, value)| format!("{key}={}", coded(value))).collect();
    pairs.join("&")
}

pub(crate) fn coded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn cookie(response: &Response) -> String {
    let set = response.headers().get("set-cookie").expect("a cookie").to_str().unwrap();
    set.split(';').next().unwrap().to_owned()
}
