-- Of each host's streams the newest few are kept, from now on with each one that is added.
DELETE FROM cursors WHERE (host, stream) IN
    (SELECT host, stream FROM
        (SELECT host, stream, row_number() OVER (PARTITION BY host ORDER BY at DESC, stream) AS place FROM cursors)
     WHERE place > 8);
