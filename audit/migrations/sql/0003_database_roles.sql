-- The one way of a role without DELETE on the dead letters to discard some: each leaves an event that says where it came from
-- and what it was (its digest), and letters and events go together. Idempotent.
CREATE PROCEDURE audit_discard_dead_letters(ids bigint[], INOUT discarded bigint DEFAULT 0) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  letter record;
BEGIN
  discarded := 0;
  FOR letter IN
    DELETE FROM audit_dead_letter WHERE id IN (SELECT d.id FROM audit_dead_letter d WHERE d.id = ANY (ids) ORDER BY d.id FOR UPDATE)
    RETURNING id, topic, partition, "offset", reason, value_digest
  LOOP
    PERFORM taskpulse_append('audit.dead_letter', letter.id::text, 'discarded', NULL, NULL, clock_timestamp(), jsonb_build_object(
      'changes', '{}'::jsonb, 'audit.dead_letter', jsonb_build_object('offset', letter."offset", 'partition', letter.partition,
        'reason', letter.reason, 'topic', letter.topic, 'value_digest', encode(letter.value_digest, 'hex'))));
    discarded := discarded + 1;
  END LOOP;
END $$;

REVOKE EXECUTE ON PROCEDURE audit_discard_dead_letters(bigint[], bigint) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION audit_refuse(), audit_checkpoint_grows() FROM PUBLIC;
