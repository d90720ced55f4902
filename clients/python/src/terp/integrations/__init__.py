"""
A sandbox as tools for agents, one module per framework: `anthropic`, `langchain`, `openai_agents`, `openai_sandbox`.

None is imported unless it is used; each says which extra of this package it needs. What the tools are called, take and
answer is in `tools` alone, and is that of the server's own tools over MCP (`terp mcp`), which any framework that speaks
MCP can use instead. There an agent also creates and ends sandboxes; here that stays with the program.
"""
