"""Templates: prompts, and teachers as the policy would have written them."""

from __future__ import annotations

import pytest

from hapo_lit.data.templates import ChatTemplate, PlainTemplate


def test_prompts_hold_the_problem(tokenizer):
    assert PlainTemplate("Q: {problem}").prompt(tokenizer, "1") == "Q: 1"
    with pytest.raises(ValueError, match=r"no \{problem\} in it"):
        PlainTemplate("Q:")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }};{% endfor %}{% if add_generation_prompt %}={% endif %}"
    )
    assert ChatTemplate(system="1").prompt(tokenizer, "2") == "1;2;="


def test_templates_write_teachers_as_the_policy_would(tokenizer):
    think = ChatTemplate(begun="<think>\n", response="{solution}")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}|{% endfor %}"
    assert think.prompt(tokenizer, "7") == "7|<think>\n"
    assert think.response("<think>\nso</think>5") == "so</think>5"
    assert PlainTemplate(response="<think>{solution}</think>").response("x") == "<think>x</think>"
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}|{% endfor %}{{ '<think>\n' }}"
    assert think.prompt(tokenizer, "7") == "7|<think>\n"
    with pytest.raises(ValueError, match=r"no \{solution\} in it"):
        PlainTemplate(response="x")
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="has no chat template; choose template=plain"):
        think.prompt(tokenizer, "7")


def test_a_chat_template_without_a_system_message_is_refused(tokenizer):
    asked = ChatTemplate(system="Answer in a box.")
    tokenizer.chat_template = "{% for m in messages if m.role != 'system' %}{{ m.content }}|{% endfor %}"
    with pytest.raises(ValueError, match=r"leaves out the system message 'Answer in a box.': set template.system=null"):
        asked.check(tokenizer)
    ChatTemplate().check(tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content | upper }}|{% endfor %}"
    asked.check(tokenizer)
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(ValueError, match=r"cannot write a prompt \(System role not supported\).*template.system=null"):
        asked.prompt(tokenizer, "7")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}"
    with pytest.raises(ValueError, match=r"cannot write a prompt \(Unexpected end of template"):
        ChatTemplate().prompt(tokenizer, "7")
