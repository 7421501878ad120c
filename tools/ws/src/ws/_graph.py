"""The packages and what they need, as a table or as a Mermaid diagram."""

from rich.table import Table

from ws._workspace import Member, Workspace


def table(workspace: Workspace) -> Table:
    """One row per package, each after those it requires."""
    shown = Table(
        "layer", "package", "version", "requires", "used by", box=None, header_style="bold"
    )
    for member in sorted(_packages(workspace), key=_layer):
        users = {m.name for m in _packages(workspace) if member.name in workspace.siblings(m)}
        requires = ", ".join(workspace.siblings(member))
        layer = "?" if member.layer is None else str(member.layer)
        shown.add_row(layer, member.name, str(member.version), requires, ", ".join(sorted(users)))
    return shown


def mermaid(workspace: Workspace) -> str:
    """A flow chart with one box per layer; arrows point to what is required."""
    lines = ["flowchart TD"]
    packages = _packages(workspace)
    for layer in sorted({_layer(member) for member in packages}, reverse=True):
        lines.append(f'    subgraph layer{layer}["layer {layer}"]')
        shown = (member for member in packages if _layer(member) == layer)
        lines += [f'        {m.name}["{m.name}<br/>{m.version}"]' for m in shown]
        lines.append("    end")
    for member in packages:
        lines += [f"    {member.name} --> {sibling}" for sibling in workspace.siblings(member)]
    return "\n".join(lines)


def _packages(workspace: Workspace) -> list[Member]:
    return [member for member in workspace.in_order() if member.kind == "packages"]


def _layer(member: Member) -> int:
    return -1 if member.layer is None else member.layer
