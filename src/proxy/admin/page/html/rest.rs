//! Transfers in flight, and the process itself.

use std::time::Duration;

use maud::{Markup, html};

use super::{super::seen::Seen, time, words};
use crate::wire::{decisions::Decision, transfers::Transfer};

/// Transfers that are shown; the API has all.
const SHOWN: usize = 100;

pub(super) fn transfers(seen: &Seen) -> Markup {
    let all = &seen.transfers.transfers;
    html! {
        section #transfers aria-labelledby="transfers-title" {
            h2 #transfers-title { "Transfers in flight" }
            @if all.is_empty() { p .none { "None." } } @else {
                table {
                    caption {
                        span .facts {
                            (words::several(all.len() as u64, "transfer"))
                            @if all.len() > SHOWN {
                                ", the " (SHOWN) " oldest are shown; " code { "/admin/v1/transfers" } " has all"
                            }
                        }
                    }
                    thead {
                        tr {
                            th scope="col" { "What" } th scope="col" { "Client" } th scope="col" { "Server" }
                            th scope="col" .number { "Moved" } th scope="col" .number { "Rate" }
                            th scope="col" .number { "Lasts" } th scope="col" { "Waits for" }
                        }
                    }
                    tbody { @for transfer in all.iter().take(SHOWN) { (of(transfer)) } }
                }
            }
        }
    }
}

fn of(transfer: &Transfer) -> Markup {
    let moved = match transfer.direction.as_str() {
        "up" => transfer.bytes_received,
        "down" => transfer.bytes_sent,
        _ => transfer.bytes_received.saturating_add(transfer.bytes_sent),
    };
    let arrow = match transfer.direction.as_str() {
        "up" => "push",
        "down" => "pull",
        _ => "both ways",
    };
    html! {
        tr {
            th scope="row" .evidence {
                (arrow) ": " (transfer.method) " " (transfer.path)
                br; span .address { (transfer.request) }
            }
            td data-label="Client" { (transfer.client) }
            td data-label="Server" {
                @match &transfer.upstream { Some(upstream) => (upstream), None => "–" }
                br; span .address { (transfer.service) }
            }
            td .number data-label="Moved" {
                (words::bytes(moved))
                @if let Some(length) = transfer.length {
                    br; progress max=(length.max(1)) value=(moved.min(length)) aria-label="moved" {}
                    br; span .since { "of " (words::bytes(length)) }
                }
            }
            td .number data-label="Rate" { (words::speed(transfer.rate as f64)) }
            td .number data-label="Lasts" {
                (words::lasting(Duration::try_from_secs_f64(transfer.seconds).unwrap_or_default()))
            }
            td data-label="Waits for" { (transfer.waits_for) }
        }
    }
}

/// Requests that the proxy has answered itself: so many of the latest are shown; the API has the others.
pub(in crate::proxy::admin::page) const REFUSALS: usize = 10;

pub(super) fn refusals(seen: &Seen) -> Markup {
    html! {
        section #refusals aria-labelledby="refusals-title" hidden[seen.refusals.is_empty()] {
            h2 #refusals-title { "Last refused by the proxy" }
            table {
                thead {
                    tr {
                        th scope="col" { "What" } th scope="col" { "Client" } th scope="col" { "When" }
                        th scope="col" { "Answer" } th scope="col" { "Why" }
                    }
                }
                tbody { @for one in &seen.refusals { (refused(seen, one)) } }
            }
        }
    }
}

fn refused(seen: &Seen, one: &Decision) -> Markup {
    html! {
        tr {
            th scope="row" .evidence {
                @if one.method.is_empty() { "no request" } @else { (one.method) " " (one.path) }
                br; span .address { (one.request) }
            }
            td data-label="Client" { (one.client) br; span .address { (one.listener) } }
            td data-label="When" { (time(one.at, seen.at)) }
            td data-label="Answer" {
                @match one.status { Some(status) => (status), None => "–" }
                @if let Some(reason) = &one.reason { br; span .address { (reason) } }
            }
            td .evidence data-label="Why" {
                @if let Some(error) = &one.error { (error) }
                @if let Some(next) = &one.next { br; span .since { (next) } }
            }
        }
    }
}

pub(super) fn process(seen: &Seen) -> Markup {
    let process = &seen.process;
    html! {
        section #process aria-labelledby="process-title" {
            h2 #process-title { "This proxy" }
            dl .facts {
                dt { "Version" } dd { (process.version) }
                dt { "Process" } dd {
                    (process.pid)
                    @if process.generation > 0 { ", after " (words::several(process.generation, "upgrade")) }
                }
                dt { "Config" } dd {
                    @if seen.config == 0 { "that of the start" } @else { "that of reload " (seen.config) }
                    @if seen.refused.is_some() { " " b .bad { "(the last reload was refused)" } }
                }
                dt { "Client connections" } dd { (process.connections) }
                @for (name, address) in &process.listeners {
                    dt { "Listener " (name) } dd { (address) }
                }
                @for certificates in &seen.certificates {
                    @if let Some(until) = certificates.until {
                        dt { "Certificate of " (certificates.of) } dd { "good until " (time(until, seen.at)) }
                    }
                }
            }
        }
    }
}
