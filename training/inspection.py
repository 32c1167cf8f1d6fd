"""What a bundle is, in words."""

from service.bundle.reader import Bundle


def describe(bundle: Bundle) -> str:
    """A page about a checked bundle."""
    m, p = bundle.manifest, bundle.manifest.provenance
    size = sum(entry.bytes for entry in m.files.values())
    e = m.evaluation
    learnt = p.configuration.get("optimiser", {}).get("epochs") != 0
    seeds = f"seed {p.seed}"
    if p.averaged:
        seeds = f"mean of seeds {', '.join(str(each.seed) for each in p.averaged)}"
    lines = [
        f"{m.name}   {bundle.folder}",
        f"  digest        {bundle.digest}",
        f"  base model    {m.base_model} ({m.licence}), {m.family}, pooling {m.pooling}",
        f"  size          {size / 1e6:.0f} MB, {m.precision}, heads {', '.join(m.heads)}",
        f"  input         at most {m.max_tokens} tokens, text format {m.text_format_sha256[:16]}",
        f"  {'trained on ' if learnt else 'measured on'}   {p.records} prompts (data {p.data_sha256[:16]}), "
        f"{seeds}, {p.created}, commit {(p.commit or 'unknown')[:12]}",
        f"  scores        centre {m.calibration.centre:+.3f}, spread {m.calibration.scale:.3f},"
        f" temperature {m.calibration.temperature:.3f}",
        "  evaluation    " + ", ".join(f"{name} {value:.4g}" for name, value in e.items()),
        f"  files         {len(m.files)}, all checked against their SHA-256",
    ]
    return "\n".join(lines)
