"""When a flow is to run: clocks, and schedules made of them."""
