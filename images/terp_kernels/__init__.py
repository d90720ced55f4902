"""
Code kernels of a sandbox: real Jupyter kernels, kept by one resident program that the host speaks to.

    host ══ /run/terp/kernels.sock ══ server ── contexts ── kernel ══ ipc sockets ══ ipykernel …
              one connection a call,      │        runs of one context wait for each other
              JSON lines                  └── the default Python kernel, ready before the first call

It is installed into templates only, for the CPython that they bring. What a call and its answer look like is said in
`server`. Nothing here guards the host: all of it belongs to the guest, and the host checks what it is told.
"""
