"""``python -m lrdiff_bench`` is the ``lrdiff`` command, and this is what its script calls."""

import sys


def main() -> int:
    """Run the command line and return the exit status; Ctrl-C is told in two lines even while it is being loaded."""
    try:
        from lrdiff_bench.system.interruption import ends_on_signals

        with ends_on_signals():
            try:
                from lrdiff_bench.cli import main as command_line

                return command_line()
            except KeyboardInterrupt:
                return _interrupted()
    except KeyboardInterrupt:
        return _interrupted()


def _interrupted() -> int:
    sys.stderr.write("error: interrupted\nhelp: nothing was left half-written; start it again when you like\n")
    return 130


if __name__ == "__main__":
    sys.exit(main())
