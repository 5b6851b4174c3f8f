"""How fast the gateway follows its registry, and what that costs: `bench/discovery`, one part per module."""
