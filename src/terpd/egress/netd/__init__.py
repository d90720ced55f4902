"""
The privileged helper that makes network namespaces: one small single-threaded process without state.

    terpd (egress/namespaces.py, process)
      └─ SOCK_SEQPACKET (wire) ─▶ serve ─▶ namespace ─┬─▶ links      TAP, addresses, routes, sysctls
                                                      ├─▶ rules      the packet filter
                                                      └─▶ listeners  sockets for the gateway

It lives in an empty network namespace of its own and enters others only for the length of one request. Everything it
makes leaves as descriptors, so a namespace lives as long as somebody holds one of its own, whatever becomes of the
helper. It ends when the other end of its socket closes.
"""
