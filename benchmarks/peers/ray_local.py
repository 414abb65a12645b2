"""Ray on this machine: two CPUs, no dashboard, no logs; all tasks submitted at once, one get at the end."""

import ray
from _peer import MODULUS, TEN_KB, layer_plan, main


@ray.remote
def same(x):
    return x


@ray.remote
def following(x):
    return x + 1


@ray.remote
def add(a, b, c):
    return (a + b + c) % MODULUS


@ray.remote
def total(*xs):
    return sum(xs)


@ray.remote
def source():
    return TEN_KB


@ray.remote
def turned(data):
    return data[::-1]


@ray.remote
def total_length(*parts):
    return sum(map(len, parts))


def prepare(workload, size):

    def run():
        if workload == "chain":
            value = following.remote(0)
            for _ in range(size - 1):
                value = following.remote(value)
            return ray.get(value)
        if workload == "layers":
            layer = [same.remote(number) for number in range(len(layer_plan(size)[0]))]
            for one in layer_plan(size):
                layer = [add.remote(*(layer[number] for number in upstream)) for upstream in one]
            return ray.get(total.remote(*layer))
        if workload == "two-maps":
            return ray.get(total.remote(*(following.remote(following.remote(n)) for n in range(size // 2))))
        if workload == "diamond":
            data = source.remote()
            return ray.get(total_length.remote(*(turned.remote(data) for _ in range(size))))
        return ray.get(total.remote(*(same.remote(number) for number in range(size))))

    return run


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    main("ray", prepare)
    ray.shutdown()
