//! The page of a request that could not be answered.

use askama::Template;

use super::super::frame::{Frame, Live, Section};

#[derive(Debug, Template)]
#[template(path = "failure.html")]
pub(crate) struct Page {
    pub(crate) frame: Frame,
    pub(crate) status: u16,
    pub(crate) title: &'static str,
    pub(crate) detail: String,
}
