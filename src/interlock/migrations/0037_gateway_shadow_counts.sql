-- why: what copies of a version in the shadow come to is counted beside the arms, so that its rollout can be held or taken back
-- phase: expand
ALTER TABLE gateway_route_arm_counts DROP CONSTRAINT gateway_route_arm_counts_arm_check;
ALTER TABLE gateway_route_arm_counts ADD CONSTRAINT gateway_route_arm_counts_arm_check
    CHECK (arm IN ('stable', 'canary', 'shadow'));
