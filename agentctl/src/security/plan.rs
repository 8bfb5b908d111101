//! `agentctl security plan`

use agentd_protocol::api::SecurityPlan;
use agentd_protocol::exit_code::Exit;

use super::{Wanted, page};
use crate::client::{Client, Error};
use crate::out::Out;
use crate::screen::Screen;

pub(super) async fn run(client: &Client, wanted: &Wanted, out: &mut Out) -> Result<Exit, Error> {
    let plan: SecurityPlan = client.post_body("/v1/security/plan", &wanted.order()).await?;
    let screen = Screen::of_stdout();
    page::plan(&plan).iter().for_each(|line| out.line(line.shown(screen)));
    Ok(Exit::Ok)
}
