"""
Any chat model of LangChain with a computer: what `create_agent(model, tools)` does, written out.

Needs pip install 'terp[langchain]', a model's package, and TERP_API_KEY in the environment.
"""

from __future__ import annotations

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, HumanMessage

from terp import Sandbox
from terp.integrations.langchain import SandboxToolkit


def answer(model: BaseChatModel, question: str) -> str:
    messages: list[BaseMessage] = [HumanMessage(question)]
    with Sandbox.create(template="code-interpreter") as sbx:
        tools = {tool.name: tool for tool in SandboxToolkit(sandbox=sbx).get_tools()}
        knowing = model.bind_tools(list(tools.values()))
        while True:
            said = knowing.invoke(messages)
            messages.append(said)
            if not said.tool_calls:
                return said.text
            messages += [tools[call["name"]].invoke(call) for call in said.tool_calls]
