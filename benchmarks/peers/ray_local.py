"""Ray on this machine: two CPUs, no dashboard, no logs; all tasks submitted at once, one get at the end."""

import ray
from _peer import MODULUS, layer_plan, main


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


def prepare(workload, size):
    plan = layer_plan(size)

    def run():
        if workload == "chain":
            value = following.remote(0)
            for _ in range(size - 1):
                value = following.remote(value)
            return ray.get(value)
        if workload == "layers":
            layer = [same.remote(number) for number in range(len(plan[0]))]
            for one in plan:
                layer = [add.remote(*(layer[number] for number in upstream)) for upstream in one]
            return ray.get(total.remote(*layer))
        if workload == "two-maps":
            return ray.get(total.remote(*(following.remote(following.remote(n)) for n in range(size // 2))))
        return ray.get(total.remote(*(same.remote(number) for number in range(size))))

    return run


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    main("ray", prepare)
    ray.shutdown()
