//! Brings a conversation into an order that every vendor accepts.
//!
//! Turns of one role that follow each other become one; the results of a turn's calls come first in the next turn of the user, each
//! once and in the order of the calls; a call without a result gets one that says so; a result without a call goes. What was put in
//! or left out is declared. The result for the first turns does not depend on later ones, so that caches hit.

use super::ir::{Part, Request, Role, TextPart, ToolCall, ToolResult, Turn};
use super::loss::{Losses, Reason};
use super::text::Text;

/// What a call without a result is answered with.
const NO_RESULT: &str = "No result was given for this call.";

/// The conversation of `request` in order. With `keep_system`, instructions in the middle stay turns of their own; else they become
/// marked text of the user.
pub fn arrange(request: &Request, keep_system: bool, losses: &mut Losses) -> Vec<Turn> {
    let mut turns = merged(named(request), keep_system, losses);
    let mut arranged: Vec<Turn> = Vec::with_capacity(turns.len());
    let mut calls: Vec<ToolCall> = Vec::new();
    for turn in turns.drain(..) {
        match turn.role {
            Role::System => arranged.push(turn),
            Role::Assistant => {
                answer_missing(&mut arranged, std::mem::take(&mut calls), losses);
                calls = turn.parts.iter().filter_map(|part| as_call(part).cloned()).collect();
                arranged.push(turn);
            }
            Role::User => {
                let parts = results_first(turn.parts, std::mem::take(&mut calls), losses);
                arranged.push(Turn { role: Role::User, parts });
            }
        }
    }
    answer_missing(&mut arranged, calls, losses);
    arranged.retain(|turn| !turn.parts.is_empty());
    arranged
}

fn as_call(part: &Part) -> Option<&ToolCall> {
    match part {
        Part::ToolCall(call) => Some(call),
        _ => None,
    }
}

/// The turns with an id for every call and result, by position where the dialect has none.
fn named(request: &Request) -> Vec<Turn> {
    let mut turns = request.turns.clone();
    let (mut made, mut open) = (0, Vec::new());
    for part in turns.iter_mut().flat_map(|turn| &mut turn.parts) {
        match part {
            Part::ToolCall(call) => {
                let id = call.id.take().unwrap_or_else(|| format!("call_{made}"));
                made += 1;
                open.push((id.clone(), call.name.clone()));
                call.id = Some(id);
            }
            Part::ToolResult(result) => {
                let place = match (&result.id, &result.name) {
                    (Some(id), _) => open.iter().position(|(own, _)| own == id),
                    (None, Some(name)) => open.iter().position(|(_, own)| own == name),
                    (None, None) => (!open.is_empty()).then_some(0),
                };
                if let Some((id, name)) = place.map(|place| open.remove(place)) {
                    result.id = Some(id);
                    result.name = result.name.take().or(Some(name));
                }
            }
            _ => {}
        }
    }
    turns
}

/// One turn where several of a role follow each other, without empty texts.
fn merged(turns: Vec<Turn>, keep_system: bool, losses: &mut Losses) -> Vec<Turn> {
    let mut merged: Vec<Turn> = Vec::with_capacity(turns.len());
    for mut turn in turns {
        turn.parts.retain(|part| !matches!(part, Part::Text(text) if text.text.is_empty()));
        if turn.role == Role::System && !keep_system {
            losses.add("messages.system", Reason::Approximated);
            turn.role = Role::User;
            turn.parts.iter_mut().for_each(mark_system);
        }
        if turn.parts.is_empty() {
            continue;
        }
        let has_result = turn.parts.iter().any(|part| matches!(part, Part::ToolResult(_)));
        match merged.last_mut() {
            Some(last) if last.role == turn.role && turn.role != Role::System => last.parts.append(&mut turn.parts),
            // Results must follow their calls at once.
            Some(last) if last.role == Role::System && has_result => {
                let place = merged.len() - 1;
                merged.insert(place, turn);
            }
            _ => merged.push(turn),
        }
    }
    merged
}

/// Marks an instruction that has to stand in a turn of the user.
fn mark_system(part: &mut Part) {
    if let Part::Text(TextPart { text, .. }) = part {
        *text = as_instruction(text);
    }
}

/// An instruction as text of the user.
pub fn as_instruction(text: &Text) -> Text {
    Text::plain("<system>").join(text).join(&Text::plain("</system>"))
}

/// Puts results before everything else, in the order of the calls.
fn results_first(parts: Vec<Part>, calls: Vec<ToolCall>, losses: &mut Losses) -> Vec<Part> {
    let (mut results, mut rest) = (Vec::new(), Vec::with_capacity(parts.len()));
    for part in parts {
        match part {
            Part::ToolResult(result) => results.push(result),
            other => rest.push(other),
        }
    }
    let mut ordered = Vec::with_capacity(calls.len() + rest.len());
    for call in calls {
        let place = results.iter().position(|result| result.id == call.id);
        ordered.push(Part::ToolResult(match place {
            Some(place) => results.remove(place),
            None => missing(call, losses),
        }));
    }
    if !results.is_empty() {
        losses.add("messages.tool_result", Reason::Invalid);
    }
    ordered.append(&mut rest);
    ordered
}

/// Answers calls after which the assistant spoke again, or nobody did.
fn answer_missing(turns: &mut Vec<Turn>, calls: Vec<ToolCall>, losses: &mut Losses) {
    if !calls.is_empty() {
        let parts = calls.into_iter().map(|call| Part::ToolResult(missing(call, losses))).collect();
        turns.push(Turn { role: Role::User, parts });
    }
}

fn missing(call: ToolCall, losses: &mut Losses) -> ToolResult {
    losses.add("messages.tool_result", Reason::Added);
    let text = TextPart { text: Text::plain(NO_RESULT), ..TextPart::default() };
    ToolResult { id: call.id, name: Some(call.name), parts: vec![Part::Text(text)], is_error: true, cache: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::ir::Arguments;
    use crate::dialect::text::Json;

    fn call(id: &str) -> Part {
        let arguments = Arguments::Json(Json::fixed("{}"));
        Part::ToolCall(ToolCall {
            id: Some(id.to_owned()),
            name: format!("f_{id}"),
            arguments,
            signature: None,
            cache: None,
        })
    }

    fn result(id: &str) -> Part {
        let (id, parts) = (Some(id.to_owned()), Vec::new());
        Part::ToolResult(ToolResult { id, name: None, parts, is_error: false, cache: None })
    }

    fn text(text: &str) -> Part {
        Part::Text(TextPart { text: Text::write(text), ..TextPart::default() })
    }

    fn show(turns: &[Turn]) -> String {
        let part = |part: &Part| match part {
            Part::Text(text) => text.text.read().into_owned(),
            Part::ToolCall(call) => format!("?{}", call.id.as_deref().unwrap()),
            Part::ToolResult(result) => {
                format!("!{}{}", result.id.as_deref().unwrap(), if result.is_error { "E" } else { "" })
            }
            _ => unreachable!(),
        };
        let turn = |turn: &Turn| {
            let parts: Vec<String> = turn.parts.iter().map(part).collect();
            format!("{:?}({})", turn.role, parts.join(" "))
        };
        turns.iter().map(turn).collect::<Vec<_>>().join(" ")
    }

    fn arranged(turns: Vec<(Role, Vec<Part>)>) -> (String, String) {
        let turns = turns.into_iter().map(|(role, parts)| Turn { role, parts }).collect();
        let mut losses = Losses::default();
        let turns = arrange(&Request { turns, ..Request::default() }, true, &mut losses);
        (show(&turns), losses.header())
    }

    use Role::{Assistant, System, User};

    #[test]
    fn results_of_parallel_calls_stand_in_one_turn_before_text_in_the_order_of_the_calls() {
        let (turns, losses) = arranged(vec![
            (User, vec![text("hi")]),
            (Assistant, vec![call("a"), call("b")]),
            (User, vec![text("note"), result("b")]),
            (User, vec![result("a"), text("")]),
        ]);
        assert_eq!(turns, "User(hi) Assistant(?a ?b) User(!a !b note)");
        assert_eq!(losses, "");
    }

    #[test]
    fn a_call_without_a_result_gets_one_and_a_result_without_a_call_goes() {
        let (turns, losses) = arranged(vec![
            (User, vec![result("x"), text("hi")]),
            (Assistant, vec![call("a"), call("b")]),
            (User, vec![result("b"), result("b")]),
            (Assistant, vec![call("c")]),
        ]);
        assert_eq!(turns, "User(hi) Assistant(?a ?b) User(!aE !b) Assistant(?c) User(!cE)");
        assert_eq!(losses, "messages.tool_result;invalid, messages.tool_result;added");
    }

    #[test]
    fn an_instruction_between_a_call_and_its_result_moves_behind_it() {
        let (turns, _) =
            arranged(vec![(Assistant, vec![call("a")]), (System, vec![text("s")]), (User, vec![result("a")])]);
        assert_eq!(turns, "Assistant(?a) User(!a) System(s)");
    }

    #[test]
    fn what_was_arranged_stays_when_the_conversation_grows() {
        let turns = vec![
            (User, vec![text("one")]),
            (Assistant, vec![text("two"), call("a")]),
            (User, vec![result("a")]),
            (Assistant, vec![text("three")]),
            (User, vec![text("four")]),
        ];
        let whole = arranged(turns.clone()).0;
        assert!(whole.starts_with(&arranged(turns[..3].to_vec()).0));
    }
}
