"""
A sandbox agent of the OpenAI Agents SDK, with Terp as the provider of its sandboxes.

Needs pip install 'terp[openai-agents]', and OPENAI_API_KEY and TERP_API_KEY in the environment.
"""

from __future__ import annotations

import asyncio
import sys

from agents import RunConfig, Runner
from agents.sandbox import Manifest, SandboxAgent, SandboxRunConfig
from agents.sandbox.entries import File

from terp.integrations.openai_sandbox import TerpSandboxClient, TerpSandboxClientOptions


async def main(question: str) -> None:
    agent = SandboxAgent(
        "Coder",
        instructions="Work in the workspace.",
        default_manifest=Manifest(entries={"notes.txt": File(content=b"The answer is 42.\n")}),
    )
    sandbox = SandboxRunConfig(
        client=TerpSandboxClient(), options=TerpSandboxClientOptions(template="code-interpreter", network="off")
    )
    result = await Runner.run(agent, question, run_config=RunConfig(sandbox=sandbox))
    print(result.final_output)


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "What do the notes say?"))
