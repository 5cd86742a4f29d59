-- why: the second in which a weight changes is counted by each weight, so that no request is taken for the other one's
-- phase: expand
ALTER TABLE gateway_route_arm_counts DROP CONSTRAINT gateway_route_arm_counts_pkey;
ALTER TABLE gateway_route_arm_counts
    ADD PRIMARY KEY (organization_id, alias, second, version, arm, weight_bp, edge);
