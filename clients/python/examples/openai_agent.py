"""
An agent of the OpenAI Agents SDK with a computer as its tools.

Needs pip install 'terp[openai-agents]', and OPENAI_API_KEY and TERP_API_KEY in the environment.
"""

from __future__ import annotations

import asyncio
import sys

from agents import Agent, Runner

from terp import AsyncSandbox
from terp.integrations.openai_agents import sandbox_tools


async def main(question: str) -> None:
    async with await AsyncSandbox.create(template="code-interpreter") as sbx:
        agent = Agent("Analyst", instructions="Compute, do not guess.", tools=[*sandbox_tools(sbx)])
        result = await Runner.run(agent, question)
        print(result.final_output)


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "What is the 50th prime?"))
