"""How many of a kind Ray puts on a node, by a loop that is slow and plain."""


def placed(cpus_there: float, gpus_there: int, cpus: float, gpus: float) -> int:
    """Trials or workers put on a node one by one until one has no room, in ten-thousandths as Ray counts."""
    left, devices, held = round(cpus_there * 1e4), [10_000] * gpus_there, 0
    while left >= round(cpus * 1e4):
        wanted = round(gpus * 1e4)
        if wanted >= 10_000:
            whole = [i for i, device in enumerate(devices) if device == 10_000][: wanted // 10_000]
            if len(whole) < wanted // 10_000:
                break
            for i in whole:
                devices[i] = 0
        elif wanted:
            room = [i for i, device in enumerate(devices) if device >= wanted]
            if not room:
                break
            devices[room[0]] -= wanted
        left -= round(cpus * 1e4)
        held += 1
    return held
