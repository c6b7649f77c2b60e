"""`moec peers`: the implementations that `moec bench` can compare with, and how to get them."""

from __future__ import annotations

import click

from moec.cli.shared import complain, epilog, error_format_option


@click.command("peers", epilog=epilog("moec peers", "moec peers --install torch"))
@click.option("--install", metavar="NAME,…", help="Make an environment for a peer, in moec's cache directory.")
@error_format_option
def command(install: str | None) -> None:
    """List the peers of `moec bench`: what each is, and which Python runs it."""
    from moec.bench.peers import PeerFailed, all_peers

    peers = all_peers()
    for name in filter(None, (part.strip() for part in (install or "").split(","))):
        if name not in peers:
            raise click.BadParameter(
                f"no peer is called `{name}`; there are {', '.join(peers)}", param_hint="--install"
            )
        try:
            peers[name].install()
        except PeerFailed as error:
            complain(str(error))
    for peer in peers.values():
        click.echo(f"{peer.name:<12} {peer.about}\n{'':<12} {peer.python or 'not installed'}")
