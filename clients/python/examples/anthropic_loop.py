"""
Claude with a computer: a plain loop over the Messages API.

Needs pip install 'terp[anthropic]', and ANTHROPIC_API_KEY and TERP_API_KEY in the environment.
"""

from __future__ import annotations

import sys

from anthropic import Anthropic
from anthropic.types import MessageParam

from terp import Sandbox
from terp.integrations.anthropic import SandboxTools


def answer(question: str) -> str:
    client = Anthropic()
    messages: list[MessageParam] = [{"role": "user", "content": question}]
    with Sandbox.create(template="code-interpreter") as sbx:
        tools = SandboxTools(sbx)
        while True:
            message = client.messages.create(
                model="claude-sonnet-5-5", max_tokens=4096, tools=tools.definitions, messages=messages
            )
            messages.append({"role": "assistant", "content": message.content})
            results = [tools.dispatch(block) for block in message.content if block.type == "tool_use"]
            if not results:
                return "".join(block.text for block in message.content if block.type == "text")
            messages.append({"role": "user", "content": results})


if __name__ == "__main__":
    print(answer(" ".join(sys.argv[1:]) or "What is the 50th prime?"))
