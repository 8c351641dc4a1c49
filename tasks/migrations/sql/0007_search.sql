-- Full-text search of tasks. Their words stand in a table of their own, kept by a trigger: a generated column would rewrite
-- tasks_task under an ACCESS EXCLUSIVE lock when it is added, make each row twice as long for everybody who reads it, be
-- computed anew with every change of a status, and, empty as it is before the triggers of a row, make each UPDATE look like a
-- change of the task (PostgreSQL documentation 5.4 and 37.1).

-- A text whose words differ neither by case nor by accents: NFKD (Unicode Standard Annex 15), full case folding, the letters
-- that have no decomposition, no accents (Latin, Greek, Cyrillic, Hebrew, Arabic) and nothing invisible, NFC. What is no
-- letter or digit parts words, and so do the characters of scripts that put no space between them. It follows a collation that
-- PostgreSQL brings with it, not that of the database. ASCII needs less and costs an eighth: the dictionary `simple` lowers
-- it, and these are the characters that the parser would keep words together by (hosts, paths, tags, signs).
CREATE FUNCTION task_fold(value text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE RETURN
  CASE WHEN octet_length(value) = char_length(value) THEN
    replace(replace(replace(replace(replace(replace(replace(replace(replace(value,
      '.', ' '), '-', ' '), '/', ' '), '_', ' '), '@', ' '), '<', ' '), '&', ' '), '+', ' '), '~', ' ')
  ELSE
    regexp_replace(regexp_replace(normalize(regexp_replace(
      replace(replace(translate(casefold(normalize(value, NFKD) COLLATE pg_unicode_fast),
        'øłđðħŧı', 'olddhti'), 'æ', 'ae'), 'œ', 'oe'),
      '[\u00ad\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670\u200b-\u200d\u2060\ufeff]+', '', 'g'), NFC),
      '([\u3040-\u30ff\u3400-\u9fff])', ' \1 ', 'g'),
      '[^[:alnum:]]+', ' ', 'g')
  END;

-- The words of a task with their places and weights. `simple`: the language of a task is not known, so that no ending is cut
-- off and no word left out; a prefix finds other endings.
CREATE FUNCTION task_words(title text, labels varchar[], category text, summary text, description text) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
  setweight(to_tsvector('simple', task_fold(title)), 'A')
  || CASE WHEN labels = '{}' AND category IS NULL THEN '' ELSE
    setweight(to_tsvector('simple', task_fold(array_to_string(labels, ' ') || ' ' || coalesce(category, ''))), 'B') END
  || CASE WHEN summary IS NULL THEN '' ELSE setweight(to_tsvector('simple', task_fold(summary)), 'C') END
  || CASE WHEN description = '' THEN '' ELSE to_tsvector('simple', task_fold(description)) END;

-- What was typed as one word or phrase: its words one after the other, the last one as a prefix if asked for.
CREATE FUNCTION task_phrase(typed text, is_prefix boolean) RETURNS tsquery LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
  SELECT CASE WHEN is_prefix AND numnode(phrase) > 0 THEN (phrase::text || ':*')::tsquery ELSE phrase END
    FROM phraseto_tsquery('simple', task_fold(typed)) phrase;
END;

-- What is to be found and what not; without anything to be found, nothing is.
CREATE FUNCTION task_query(wanted tsquery, unwanted tsquery) RETURNS tsquery LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE RETURN
  CASE WHEN numnode(wanted) = 0 OR numnode(unwanted) = 0 THEN wanted ELSE wanted && !! unwanted END;

CREATE TABLE tasks_search (task_id uuid PRIMARY KEY, words tsvector NOT NULL);
-- New rows wait in the pending list of the index until they are 512 kB, which a search reads and one writer then sorts in.
CREATE INDEX tasks_search_words ON tasks_search USING gin (words) WITH (gin_pending_list_limit = 512);

CREATE FUNCTION task_search_keep() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    DELETE FROM tasks_search WHERE task_id = OLD.id;
  ELSE
    INSERT INTO tasks_search (task_id, words)
      VALUES (NEW.id, task_words(NEW.title, NEW.labels, NEW.category, NEW.summary, NEW.description))
      ON CONFLICT (task_id) DO UPDATE SET words = excluded.words;
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER taskpulse_6_search AFTER INSERT OR DELETE OR UPDATE OF title, labels, category, summary, description
  ON tasks_task FOR EACH ROW EXECUTE FUNCTION task_search_keep();
ALTER TABLE tasks_task ENABLE ALWAYS TRIGGER taskpulse_6_search;

REVOKE EXECUTE ON FUNCTION task_fold, task_words, task_phrase, task_query, task_search_keep FROM PUBLIC;
