"""
Run one case with the published client, inside the client's own environment: `python client MODULE CASE < context.json`.

A case is a public function of a module beside this one. It names what it needs by its parameters:
    sandbox   a running debian-12 sandbox that other cases use too
    fresh     one of its own, terminated afterwards
    interpreter  one of its own with code kernels, terminated afterwards
    keys      API keys by what they may do
    tight     URL and keys of three tenants of a second server: room for two machines, one live sandbox a tenant
    server    URL and key of the server, for requests that the client does not make: previews
    capped    URL and key of a third server: one paused sandbox, one named snapshot, 900 s of running, 3600 s paused
The exit code is 0 if the case holds; else the traceback is on stderr.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from contextlib import ExitStack
from typing import Any

from orkestr import Sandbox


def main() -> None:
    module, case = sys.argv[1:]
    context: dict[str, Any] = json.load(sys.stdin)
    function = getattr(importlib.import_module(module), case)
    with ExitStack() as stack:
        arguments: dict[str, Any] = {}
        for name in inspect.signature(function).parameters:
            if name == "sandbox":
                arguments[name] = Sandbox.get(context["sandbox"])
            elif name == "fresh":
                arguments[name] = stack.enter_context(Sandbox.create(template="debian-12"))
            elif name == "interpreter":
                arguments[name] = stack.enter_context(Sandbox.create(template="code-interpreter"))
            else:
                arguments[name] = context[name]
        json.dump(function(**arguments), sys.stdout)


main()
