"""The contract suite: hold any back end, also one from outside, to the contract."""
