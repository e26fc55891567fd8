"""The child process that reads foreign files: ``python -I unpickler.py``.

It takes one request, a line of JSON on stdin, and answers on stdout with the messages of
``epitaxy.foreign.wire``; see ``epitaxy.foreign.unpickle`` for the other end of the pipe. This file
only makes things importable: ``-I`` hides the user's folders and the caller's, as it should, for a
file ``json.py`` beside a data set must not run here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys


def main() -> None:
    """Answers the request."""
    os.set_blocking(2, False)  # nobody reads a long complaint before this process ends
    sys.excepthook = _complain
    request = json.loads(sys.stdin.buffer.readline())
    # Last, so that nothing of theirs takes the place of the standard library.
    sys.path += [folder for folder in request["packages"] if folder not in sys.path]
    _load_own_package()
    from epitaxy.foreign.child.answer import answer

    try:
        answer(request)
    except BrokenPipeError:  # the parent has seen enough
        os._exit(1)


def _complain(kind: type[BaseException], error: BaseException, trace: object) -> None:
    """Writes one line about an error that nothing foresaw."""
    os.write(2, f"{kind.__name__}: {error}"[:1000].encode("utf-8", "replace"))


def _load_own_package() -> None:
    """Makes ``epitaxy`` the package that this file belongs to, whatever else is installed."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    spec = importlib.util.spec_from_file_location(
        "epitaxy", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} is no package")
    package = importlib.util.module_from_spec(spec)
    sys.modules["epitaxy"] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    main()
