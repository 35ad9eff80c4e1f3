"""`omni data list`: the public data sets that are known."""

from omni.data.loading.known_sets import ALL, KNOWN_SETS


def list_sets() -> None:
    """List public data sets that `omni data fetch` knows: size of the download, licence, and what reads them.

    Example:
        omni data list
    """
    rows = [("name", "download", "licence", "read by configs/real", "on the Hub")]
    for name, known in KNOWN_SETS.items():
        repository = known.entries[0].partition("@")[0]
        rows.append((name, f"about {known.size:g} GB", known.licence, known.use, repository))
    total = sum(known.size for known in KNOWN_SETS.values() if known.in_chain)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(
        f"\n`omni data fetch {ALL}` loads those of configs/real/chain.yaml, about {total:g} GB; read the licences first"
    )
