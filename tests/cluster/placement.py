"""A slow but simple simulation of how Ray places workers on a node."""


def placed(node_cpus: float, node_gpus: int, cpus: float, gpus: float) -> int:
    """Return how many trials or workers fit a node, placed one by one; in ten-thousandths, like Ray's own counts."""
    left, devices, held = round(node_cpus * 1e4), [10_000] * node_gpus, 0
    while left >= round(cpus * 1e4):
        wanted = round(gpus * 1e4)
        if wanted >= 10_000:
            free = [i for i, device in enumerate(devices) if device == 10_000][: wanted // 10_000]
            if len(free) < wanted // 10_000:
                break
            for i in free:
                devices[i] = 0
        elif wanted:
            room = [i for i, device in enumerate(devices) if device >= wanted]
            if not room:
                break
            devices[room[0]] -= wanted
        left -= round(cpus * 1e4)
        held += 1
    return held
