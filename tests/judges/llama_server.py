"""The server of llama.cpp with the command line of `llama-server`, as far as mquant-export uses it: there is no such program on test machines, but the
PyPI wheel `xllamacpp` has the same server in a module.

usage: llama_server.py -m MODEL [--mmproj FILE] --host 127.0.0.1 --port N [--ctx-size N] [--parallel N] [--threads N] [--image-min-tokens N] [--cache-ram N]
       [--jinja]

Serves until it is ended.
"""

import argparse
import os
import sys
import threading

import xllamacpp


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--mmproj", default="")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--ctx-size", type=int, default=0)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--threads", type=int, default=-1)
    parser.add_argument("--image-min-tokens", type=int, default=-1)
    parser.add_argument("--cache-ram", type=int, default=8192)
    parser.add_argument("--jinja", action="store_true")
    args = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path, params.mmproj.path = args.model, args.mmproj
    params.hostnames, params.port = [args.host], args.port
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads = args.ctx_size, args.parallel, args.threads
    params.image_min_tokens, params.cache_ram_mib, params.use_jinja = args.image_min_tokens, args.cache_ram, args.jinja
    try:
        server = xllamacpp.Server(params)
    except Exception as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        # The module's threads would keep the process alive.
        os._exit(1)
    print(f"listening on {server.listening_address}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
