"""The rules of identity: the form of keys, the policy, the closure of groups, consistency tokens. Pure."""
