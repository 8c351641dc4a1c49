-- That somebody was shown a dead letter's raw bytes is an act with an event, as its discarding is.
CREATE PROCEDURE audit_look_at_dead_letter(letter_id bigint) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  letter record;
BEGIN
  SELECT d.topic, d.partition, d."offset", d.reason, d.value_digest INTO letter FROM audit_dead_letter d WHERE d.id = letter_id;
  IF FOUND THEN
    PERFORM taskpulse_append('audit.dead_letter', letter_id::text, 'viewed', NULL, NULL, clock_timestamp(), jsonb_build_object(
      'changes', '{}'::jsonb, 'audit.dead_letter', jsonb_build_object('offset', letter."offset", 'partition', letter.partition,
        'reason', letter.reason, 'topic', letter.topic, 'value_digest', encode(letter.value_digest, 'hex'))));
  END IF;
END $$;
REVOKE EXECUTE ON PROCEDURE audit_look_at_dead_letter(bigint) FROM PUBLIC;
