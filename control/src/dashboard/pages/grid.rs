//! Services by hosts: which is where, and in which state, at a glance. Pure.

use super::super::status::{self, Status};
use super::super::text;
use crate::model::{HostRow, Presence, ServiceCell, ServiceRow, Standing};

/// Hosts side by side; more are on the services' own pages. Those in trouble come first.
const COLUMNS_MAX: usize = 12;

#[derive(Debug)]
pub(crate) struct Grid {
    pub(crate) hosts: Vec<Column>,
    pub(crate) rows: Vec<Row>,
    pub(crate) more: usize,
}

#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) host: String,
    pub(crate) name: String,
    pub(crate) silent: bool,
}

#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) service: String,
    /// `None`: the host does not have it.
    pub(crate) cells: Vec<Option<Field>>,
}

#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) status: Status,
    pub(crate) release: Option<u64>,
    pub(crate) commit: Option<String>,
    pub(crate) counts: String,
}

impl Field {
    fn of(cell: &ServiceCell) -> Self {
        let report = &cell.report;
        Self {
            status: status::service_on(report.state, cell.silent),
            release: report.release.map(|release| release.0),
            commit: report.commit.as_ref().map(|commit| commit.short().to_owned()),
            counts: if report.wanted > 1 || report.ready < report.wanted {
                format!("{} of {}", report.ready, report.wanted)
            } else {
                String::new()
            },
        }
    }
}

impl Grid {
    pub(crate) fn of(services: &[ServiceRow], hosts: &[HostRow]) -> Self {
        let mut columns: Vec<&HostRow> = hosts.iter().filter(|row| row.standing == Standing::Active).collect();
        columns.sort_by(|a, b| (a.problem.is_none(), &a.name).cmp(&(b.problem.is_none(), &b.name)));
        let more = columns.len().saturating_sub(COLUMNS_MAX);
        columns.truncate(COLUMNS_MAX);
        let row = |service: &ServiceRow| Row {
            service: service.name.to_string(),
            cells: columns
                .iter()
                .map(|host| service.cells.iter().find(|cell| cell.host == host.id).map(Field::of))
                .collect(),
        };
        Self {
            rows: services.iter().map(row).collect(),
            hosts: columns
                .iter()
                .map(|host| Column {
                    host: host.id.to_string(),
                    name: text::word(&host.name),
                    silent: matches!(host.presence, Presence::Silent { .. }),
                })
                .collect(),
            more,
        }
    }
}
