//! Whether two JSON texts say the same, exactly.
//!
//! Rule: what differs for any reader is never taken for the same, because a publisher is then told that
//! its event was stored when another one was. So numbers are compared as decimals of any length, not
//! as floats, and an object that gives a member twice has no value that readers agree on.
//!
//! Documents may be nested as deep as they are long: nothing here recurses. Time and memory are linear
//! in the length, but for the members of an object, which are sorted.

use std::borrow::Cow;

use serde_json::value::RawValue;

/// Whether both are JSON of the same value: objects without regard to the order of members, numbers
/// by value (`1`, `1.0` and `1e0` are one), strings by the characters they stand for.
///
/// Some documents have no value that could be compared, and are the same as nothing here: those with a
/// member given twice, or an escape that stands for no character. Numbers with an exponent beyond
/// 64 bits are compared as they are written. Whoever asks has compared the bytes first.
pub(super) fn is_same(a: &[u8], b: &[u8]) -> bool {
    let (Some(a), Some(b)) = (document(a), document(b)) else { return false };
    match (nodes(a.get()), nodes(b.get())) {
        (Some(a), Some(b)) => are_same(&a, &b).unwrap_or(false),
        _ => false,
    }
}

/// Whether it is JSON.
pub(super) fn is_document(text: &[u8]) -> bool {
    document(text).is_some()
}

fn document(text: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(text).ok()
}

/// A value, or the name of a member, which stands before its value.
#[derive(Debug)]
enum Node<'a> {
    Object(Inside),
    Array(Inside),
    Text(Cow<'a, str>),
    /// A number, `true`, `false` or `null`, as it is written.
    Plain(&'a str),
}

/// The nodes of an object or array: they follow it, up to this one.
#[derive(Debug, Clone, Copy)]
struct Inside {
    end: usize,
}

/// Takes a document apart into its nodes, in the order they are written; none where a string has an
/// escape that stands for no character. That it is JSON is known.
fn nodes(mut text: &str) -> Option<Vec<Node<'_>>> {
    let mut nodes = Vec::new();
    let mut open = Vec::new();
    while let Some(first) = text.bytes().next() {
        let taken = match first {
            b'{' | b'[' => {
                open.push(nodes.len());
                let inside = Inside { end: 0 };
                nodes.push(if first == b'{' { Node::Object(inside) } else { Node::Array(inside) });
                1
            }
            b'}' | b']' => {
                let end = nodes.len();
                if let Node::Object(inside) | Node::Array(inside) = nodes.get_mut(open.pop()?)? {
                    inside.end = end;
                }
                1
            }
            b'"' => {
                let quoted = text.get(..quoted_len(text))?;
                nodes.push(Node::Text(content(quoted)?));
                quoted.len()
            }
            b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' => 1,
            _ => {
                let ends = |c: char| matches!(c, ',' | '}' | ']' | ' ' | '\t' | '\r' | '\n');
                let plain = text.get(..text.find(ends).unwrap_or(text.len()))?;
                nodes.push(Node::Plain(plain));
                plain.len()
            }
        };
        text = text.get(taken..)?;
    }
    Some(nodes)
}

/// Bytes of the string that the text begins with, its quotes included.
fn quoted_len(text: &str) -> usize {
    let mut escaped = false;
    let close = text.bytes().skip(1).position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    });
    close.map_or(text.len(), |at| at + 2)
}

/// What a string stands for.
fn content(quoted: &str) -> Option<Cow<'_, str>> {
    if quoted.contains('\\') {
        return serde_json::from_str(quoted).ok().map(Cow::Owned);
    }
    quoted.get(1..quoted.len() - 1).map(Cow::Borrowed)
}

/// None: one of them has no value.
fn are_same(a: &[Node<'_>], b: &[Node<'_>]) -> Option<bool> {
    let mut pairs = vec![(0, 0)];
    while let Some((at, bt)) = pairs.pop() {
        match (a.get(at)?, b.get(bt)?) {
            (Node::Plain(a), Node::Plain(b)) if a == b || same_number(a, b) => {}
            (Node::Text(a), Node::Text(b)) if a == b => {}
            (Node::Array(ia), Node::Array(ib)) => {
                let (mut left, mut right) = (children(a, at, *ia), children(b, bt, *ib));
                loop {
                    match (left.next(), right.next()) {
                        (Some(a), Some(b)) => pairs.push((a, b)),
                        (None, None) => break,
                        _ => return Some(false),
                    }
                }
            }
            (Node::Object(ia), Node::Object(ib)) => {
                let (left, right) = (members(a, at, *ia)?, members(b, bt, *ib)?);
                if !left.iter().map(|(name, _)| name).eq(right.iter().map(|(name, _)| name)) {
                    return Some(false);
                }
                pairs.extend(left.iter().zip(&right).map(|((_, a), (_, b))| (*a, *b)));
            }
            _ => return Some(false),
        }
    }
    Some(true)
}

/// Where the values in an array, or names and values in an object, stand: what is in them is skipped.
fn children<'a>(
    nodes: &'a [Node<'_>],
    parent: usize,
    inside: Inside,
) -> impl Iterator<Item = usize> + 'a {
    let within = move |at: &usize| *at < inside.end;
    let next = |at: &usize| match nodes.get(*at)? {
        Node::Object(inside) | Node::Array(inside) => Some(inside.end),
        Node::Text(_) | Node::Plain(_) => Some(at + 1),
    };
    std::iter::successors(Some(parent + 1).filter(within), move |at| next(at).filter(within))
}

/// The members of an object by name, and where their values stand; none where one is given twice.
fn members<'a>(
    nodes: &'a [Node<'_>],
    parent: usize,
    inside: Inside,
) -> Option<Vec<(&'a str, usize)>> {
    let mut members = Vec::new();
    let mut children = children(nodes, parent, inside);
    while let Some(name) = children.next() {
        let Node::Text(name) = nodes.get(name)? else { return None };
        members.push((&**name, children.next()?));
    }
    members.sort_unstable();
    let twice = members.iter().zip(members.iter().skip(1)).any(|((a, _), (b, _))| a == b);
    (!twice).then_some(members)
}

fn same_number(a: &str, b: &str) -> bool {
    match (Decimal::parse(a), Decimal::parse(b)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

/// A number in the one way that each can be written: no zeros at either end, so many tens.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    negative: bool,
    /// None: it is zero.
    digits: String,
    exponent: i64,
}

impl Decimal {
    /// None: it is no number, or its exponent has over 64 bits.
    fn parse(text: &str) -> Option<Self> {
        let (negative, text) = match text.strip_prefix('-') {
            Some(text) => (true, text),
            None => (false, text),
        };
        if !text.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        let digits = all.trim_end_matches('0');
        let tens = all.len() - digits.len();
        let digits = digits.trim_start_matches('0').to_owned();
        if digits.is_empty() {
            return Some(Self { negative: false, digits, exponent: 0 });
        }
        let exponent = exponent.parse::<i64>().ok()?;
        let exponent = exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?;
        let exponent = exponent.checked_add(i64::try_from(tens).ok()?)?;
        Some(Self { negative, digits, exponent })
    }
}

#[cfg(test)]
mod tests;
