-- What has to be made anew on a table that takes another one's place: kind, name, definition, comment; in the order
-- in which it is made. Index definitions begin behind the table's name.
-- Parameter: the table's OID. PostgreSQL 12 and later.
select kind, name, definition, comment
from (
    select
        1 as place,
        0 as position,
        'index' as kind,
        ic.relname::text as name,
        case when i.indisunique then 'UNIQUE ' else '' end
        || substr(
            pg_catalog.pg_get_indexdef(i.indexrelid),
            length(
                'CREATE ' || case when i.indisunique then 'UNIQUE ' else '' end || 'INDEX '
                || pg_catalog.quote_ident(ic.relname) || ' ON '
                || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)
            ) + 1
        ) as definition,
        pg_catalog.obj_description(i.indexrelid, 'pg_class') as comment
    from pg_catalog.pg_index i
    join pg_catalog.pg_class ic on ic.oid = i.indexrelid
    join pg_catalog.pg_class c on c.oid = i.indrelid
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where i.indrelid = %(oid)s::oid
        and not exists (
            select from pg_catalog.pg_constraint k where k.conindid = i.indexrelid and k.conrelid = i.indrelid
        )
    union all
    select
        case k.contype when 'f' then 3 else 2 end,
        0,
        case k.contype when 'f' then 'foreign key' else 'constraint' end,
        k.conname::text,
        pg_catalog.pg_get_constraintdef(k.oid),
        pg_catalog.obj_description(k.oid, 'pg_constraint')
    from pg_catalog.pg_constraint k
    where k.conrelid = %(oid)s::oid and k.contype in ('p', 'u', 'x', 'f')
    union all
    -- A constraint's definition tells nothing of its index, which has its name.
    select 3, position, 'index option', ic.relname::text, o, null
    from pg_catalog.pg_constraint k
    join pg_catalog.pg_class ic on ic.oid = k.conindid
    cross join lateral unnest(ic.reloptions) with ordinality as x (o, position)
    where k.conrelid = %(oid)s::oid and k.contype in ('p', 'u', 'x')
    union all
    select 3, 0, 'index comment', ic.relname::text, pg_catalog.obj_description(ic.oid, 'pg_class'), null
    from pg_catalog.pg_constraint k
    join pg_catalog.pg_class ic on ic.oid = k.conindid
    where k.conrelid = %(oid)s::oid and k.contype in ('p', 'u', 'x')
        and pg_catalog.obj_description(ic.oid, 'pg_class') is not null
    union all
    select 4, position, 'option', split_part(o, '=', 1), substr(o, strpos(o, '=') + 1), null
    from pg_catalog.pg_class c
    cross join lateral unnest(c.reloptions) with ordinality as x (o, position)
    where c.oid = %(oid)s::oid
    union all
    select 5, 0, 'comment', '', pg_catalog.obj_description(%(oid)s::oid, 'pg_class'), null
    where pg_catalog.obj_description(%(oid)s::oid, 'pg_class') is not null
    union all
    select
        6,
        0,
        'sequence',
        a.attname::text,
        pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(s.relname),
        null
    from pg_catalog.pg_depend d
    join pg_catalog.pg_class s on s.oid = d.objid and s.relkind = 'S'
    join pg_catalog.pg_namespace n on n.oid = s.relnamespace
    join pg_catalog.pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
    where d.classid = 'pg_catalog.pg_class'::regclass
        and d.refclassid = 'pg_catalog.pg_class'::regclass
        and d.refobjid = %(oid)s::oid
        and d.deptype = 'a'
) parts
order by place, position, name
