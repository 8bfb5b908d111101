//! Short words for nft's grammar. No rule is decided here.

use std::net::IpAddr;

use ipnet::IpNet;
use nftables::expr::{
    BinaryOperation, CT, Elem, Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField, Prefix, SetItem,
};
use nftables::stmt::{Counter, JumpTarget, Limit, Match, Operator, Statement};

pub(super) type Expr = Expression<'static>;
pub(super) type Act = Statement<'static>;

pub(super) fn text(word: impl Into<String>) -> Expr {
    Expression::String(word.into().into())
}

pub(super) fn number(number: impl Into<u32>) -> Expr {
    Expression::Number(number.into())
}

pub(super) fn field(protocol: &'static str, field: &'static str) -> Expr {
    let field = PayloadField { protocol: protocol.into(), field: field.into() };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

pub(super) fn meta(key: MetaKey) -> Expr {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

pub(super) fn concat(parts: Vec<Expr>) -> Expr {
    Expression::Named(NamedExpression::Concat(parts))
}

pub(super) fn any_of(items: impl IntoIterator<Item = Expr>) -> Expr {
    Expression::Named(NamedExpression::Set(items.into_iter().map(SetItem::Element).collect()))
}

pub(super) fn any_word(words: &[&str]) -> Expr {
    any_of(words.iter().map(|word| text(*word)))
}

/// A single address stands without a length, as nft prints it.
pub(super) fn network(network: &IpNet) -> Expr {
    if network.prefix_len() == network.max_prefix_len() {
        return address(network.network());
    }
    Expression::Named(NamedExpression::Prefix(Prefix {
        addr: Box::new(address(network.network())),
        len: network.prefix_len().into(),
    }))
}

pub(super) fn address(address: IpAddr) -> Expr {
    text(address.to_string())
}

pub(super) fn timed(value: Expr, timeout_s: u32) -> Expr {
    let elem = Elem { val: Box::new(value), timeout: Some(timeout_s), expires: None, comment: None, counter: None };
    Expression::Named(NamedExpression::Elem(elem))
}

pub(super) fn is(left: Expr, right: Expr) -> Act {
    Statement::Match(Match { left, right, op: Operator::EQ })
}

pub(super) fn iifname(right: Expr) -> Act {
    is(meta(MetaKey::Iifname), right)
}

fn tracked(key: &'static str) -> Expr {
    Expression::Named(NamedExpression::CT(CT { key: key.into(), family: None, dir: None }))
}

/// Against the direction of the first packet.
pub(super) fn is_reply() -> Act {
    is(tracked("direction"), text("reply"))
}

/// `ct state` or `ct status` has one of these.
pub(super) fn ct(key: &'static str, words: &[&str]) -> Act {
    let left = tracked(key);
    let right = match words {
        [word] => text(*word),
        words => Expression::List(words.iter().map(|word| text(*word)).collect()),
    };
    Statement::Match(Match { left, right, op: Operator::IN })
}

/// Anything but the segment that opens a connection: SYN alone.
pub(super) fn opens_no_connection() -> Act {
    let mask = ["fin", "syn", "rst", "ack"].map(text).into();
    let flags = BinaryOperation::AND(field("tcp", "flags"), Expression::List(mask));
    let left = Expression::BinaryOperation(Box::new(flags));
    Statement::Match(Match { left, right: text("syn"), op: Operator::NEQ })
}

pub(super) fn per_second(rate: u32, burst: u32) -> Act {
    Statement::Limit(Limit {
        rate,
        rate_unit: None,
        per: Some("second".into()),
        burst: Some(burst),
        burst_unit: None,
        inv: None,
    })
}

pub(super) fn counted(name: &'static str) -> Act {
    Statement::Counter(Counter::Named(name.into()))
}

pub(super) fn accept() -> Act {
    Statement::Accept(None)
}

pub(super) fn drop() -> Act {
    Statement::Drop(None)
}

pub(super) fn jump(chain: &'static str) -> Act {
    Statement::Jump(JumpTarget { target: chain.into() })
}

pub(super) fn goto(chain: &'static str) -> Act {
    Statement::Goto(JumpTarget { target: chain.into() })
}
