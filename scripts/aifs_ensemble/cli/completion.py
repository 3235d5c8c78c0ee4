"""Print what makes a shell complete commands, options, profiles and keys behind Tab.

It completes in the shells of whoever evaluates it at login; the examples turn it on.
"""

from __future__ import annotations

import argparse

HELP = "completion for bash, zsh or fish"
GROUP = "shell"
EXAMPLE = """\
echo 'eval "$(aifs-ensemble completion bash)"' >> ~/.bashrc
echo 'autoload -U compinit && compinit; eval "$(aifs-ensemble completion zsh)"' >> ~/.zshrc
aifs-ensemble completion fish > ~/.config/fish/completions/aifs-ensemble.fish"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the shell."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def run(args: argparse.Namespace) -> int:
    """Print the code."""
    from argcomplete.shell_integration import shellcode

    print(shellcode(["aifs-ensemble"], shell=args.shell))
    return 0
