//! What the host lets in: questions and orders about it, and who asks.

use agentd_protocol::api::{
    Accepted, SecurityConfirm, SecurityDone, SecurityOpen, SecurityOrder, SecurityPlan, SecurityStatus, Selftest,
};
use agentd_sys::causes::chain;
use axum::Json;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::serve::IncomingStream;

use super::Callers;
use super::routes::{Answer, Api, Refused};
use crate::firewall::{Error, transaction};

/// The process at the other end of the socket, where the kernel tells (SO_PEERCRED).
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller(Option<u32>);

impl Connected<IncomingStream<'_, Callers>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Callers>) -> Self {
        let pid = stream.io().peer_cred().ok().and_then(|peer| peer.pid());
        Self(pid.and_then(|pid| u32::try_from(pid).ok()))
    }
}

fn refused(error: &Error) -> Refused {
    let status = match error {
        Error::Ended => StatusCode::SERVICE_UNAVAILABLE,
        Error::Unmanaged(_)
        | Error::Stranded { .. }
        | Error::Refused { .. }
        | Error::NotAccepted { .. }
        | Error::OldSession { .. } => StatusCode::CONFLICT,
        Error::NoConnectivity { .. } | Error::RedBefore { .. } | Error::RedAfter { .. } => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        Error::TooManyNetworks(_) | Error::Window | Error::OpenTime => StatusCode::BAD_REQUEST,
        Error::Selftest(_) | Error::Guard(_) => StatusCode::INTERNAL_SERVER_ERROR,
        Error::Transaction(error) => match error {
            transaction::Error::TrialRuns { .. }
            | transaction::Error::NoTrial
            | transaction::Error::TooLate
            | transaction::Error::NothingShut
            | transaction::Error::Ufw(_) => StatusCode::CONFLICT,
            transaction::Error::Files(_)
            | transaction::Error::Check(_)
            | transaction::Error::Apply(_)
            | transaction::Error::Table(_)
            | transaction::Error::Watchdog(_)
            | transaction::Error::Json(_) => StatusCode::INTERNAL_SERVER_ERROR,
        },
    };
    Refused(status, chain(error))
}

pub(super) async fn status(State(api): State<Api>) -> Json<SecurityStatus> {
    Json(api.firewall.status().await)
}

pub(super) async fn plan(State(api): State<Api>, Json(order): Json<SecurityOrder>) -> Answer<SecurityPlan> {
    api.firewall.plan(order).await.map(Json).map_err(|error| refused(&error))
}

pub(super) async fn apply(State(api): State<Api>, Json(order): Json<SecurityOrder>) -> Answer<SecurityDone> {
    api.firewall.apply(order).await.map(Json).map_err(|error| refused(&error))
}

pub(super) async fn confirm(
    ConnectInfo(Caller(caller)): ConnectInfo<Caller>,
    State(api): State<Api>,
    Json(confirm): Json<SecurityConfirm>,
) -> Answer<SecurityDone> {
    api.firewall.confirm(confirm, caller).await.map(Json).map_err(|error| refused(&error))
}

pub(super) async fn revert(State(api): State<Api>) -> Answer<SecurityDone> {
    api.firewall.revert().await.map(Json).map_err(|error| refused(&error))
}

pub(super) async fn open(State(api): State<Api>, Json(open): Json<SecurityOpen>) -> Answer<Accepted> {
    let opened = api.firewall.open(open).await;
    opened.map(|message| Json(Accepted { message })).map_err(|error| refused(&error))
}

pub(super) async fn selftest(State(api): State<Api>) -> Answer<Selftest> {
    api.firewall.selftest().await.map(Json).map_err(|error| refused(&error))
}
