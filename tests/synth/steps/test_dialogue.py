"""Dialogues: who speaks when, what is taken off the user's turns, what is asked."""

import pytest
from tests.synth.steps.through import through

from amaru.synth.conversation import shown, without_politeness

PERSONA = {"persona": "somebody in a hurry"}


def speaks(body):
    """The user thanks and asks; the assistant counts the turns that it sees."""
    if body["model"] == "user":
        return "Thanks, that's great! And what comes after that?"
    return f"Answer {sum(message['role'] == 'user' for message in body['messages'])}."


def test_turns_alternate_and_each_model_sees_what_was_said(tmp_path):
    step = {"kind": "dialogue", "model": "writer", "user": "user", "turns": 3}
    (row,), _, server, told = through(tmp_path, [{"prompt": "Why?", **PERSONA}], step, script=speaks)
    follow = {"role": "user", "content": "And what comes after that?"}
    answers = [{"role": "assistant", "content": f"Answer {number}."} for number in (1, 2, 3)]
    assert row["messages"] == [{"role": "user", "content": "Why?"}, answers[0], follow, answers[1], follow, answers[2]]
    assert (server.requests, told) == (5, 5)
    asked = [body["messages"][-1]["content"] for body in server.bodies if body["model"] == "user"]
    assert shown(row["messages"][:4]) in asked[1] and "You are somebody in a hurry." in asked[0]


def test_prompts_of_two_turns_end_with_the_user(tmp_path):
    begun = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    step = {"kind": "dialogue", "model": "writer", "user": "user", "turns": 2, "last": "user", "of": "begun"}
    (row,), _, server, told = through(tmp_path, [{"begun": begun, **PERSONA}], step, script=speaks)
    assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant", "user"]
    assert (server.requests, told) == (2, 2)


def test_a_turn_of_courtesies_alone_is_asked_again_and_fails(tmp_path):
    step = {"kind": "dialogue", "model": "writer", "user": "user", "turns": 2}
    polite = lambda body: "Thank you so much!" if body["model"] == "user" else "Because."  # noqa: E731
    rows, tallies, server, _ = through(tmp_path, [{"prompt": "Why?", **PERSONA}], step, script=polite)
    assert not rows and server.requests == 3
    assert tallies["step0"].failed == {"the turn says nothing but courtesies (attempt 2)": 1}


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("Thanks! Why is it so?", "Why is it so?"),
        ("Thank you for explaining that. Could you give an example?", "Could you give an example?"),
        ("Great, thanks a lot! That's very interesting. how long does it take? Thanks in advance!", "How long does it take?"),
        ("That's a great explanation, thank you. What about rain?", "What about rain?"),
        ("Sure, and what about the second one?", "And what about the second one?"),
        ("Interesting! What is a great circle?", "What is a great circle?"),
        ("Great Britain has how many islands?", "Great Britain has how many islands?"),
        ("Write a letter. Thank everybody in it.", "Write a letter. Thank everybody in it."),
        ("How do I say thanks in French?", "How do I say thanks in French?"),
        ("Sounds great. Thank you so much for your help!", ""),
        ("What is 3.5 times 2?\n\nThanks.", "What is 3.5 times 2?"),
    ],
)
def test_what_is_polite_and_nothing_else_is_taken_off_both_ends(said, left):
    assert without_politeness(said) == left
