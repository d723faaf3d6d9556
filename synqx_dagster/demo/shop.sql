-- The source of the demo: a web shop that has traded from 2023 to 2025 in twelve countries, with the mess of real
-- data. Every value is arithmetic on a row's number, so each run gives the same bytes on every machine.
-- Runs in one transaction on an empty database; needs PostgreSQL 14 or newer.

set local timezone = 'UTC';
set local datestyle = 'ISO, YMD';
set local client_min_messages = warning;

-- A whole number from 0 to 2147483646 that looks random: two rounds of Lehmer's generator, stirred with the salt.
create function pg_temp.pick(id bigint, salt integer) returns bigint
language sql immutable parallel safe return
    (((id * 48271 + salt * 69621) % 2147483647) * 16807 + ((id * 7919) # (salt * 104729))) % 2147483647;

create function pg_temp.choose(words text[], id bigint, salt integer) returns text
language sql immutable parallel safe return
    words[1 + (pg_temp.pick(id, salt) % cardinality(words))::integer];

create temporary table country on commit drop as
select * from (values
    (0, 'DE', array['Germany', 'germany', 'DE', 'Deutschland', ' Germany'], '+49', 1,
     array['Jürgen', 'Anja', 'Björn', 'Käthe', 'Lukas', 'Mia', 'Sören', 'Ursula'],
     array['Müller', 'Schäfer', 'Groß', 'Weiß', 'Köhler', 'Vogel', 'von Ribbeck', 'Özdemir'],
     array['Hauptstraße', 'Am Mühlgraben', 'Lindenallee', 'Königsweg'],
     array['Köln', 'Düsseldorf', 'Görlitz', 'Berlin', 'Gießen']),
    (1, 'FR', array['France', 'FRANCE', 'FR'], '+33', 1,
     array['Zoé', 'François', 'Hélène', 'Noël', 'Léa', 'Maël', 'Chloé', 'Théo'],
     array['Lefèvre', 'D''Ambrosio', 'Côté', 'Béranger', 'Moreau', 'de La Tour', 'Nguyễn', 'Petit'],
     array['Rue de l''Église', 'Allée des Chênes', 'Boulevard Saint-Michel', 'Impasse du Puits'],
     array['Orléans', 'Nîmes', 'Béziers', 'Lyon', 'Le Mans']),
    (2, 'PL', array['Poland', 'Polska', 'PL', 'poland'], '+48', 1,
     array['Łukasz', 'Agnieszka', 'Małgorzata', 'Grażyna', 'Paweł', 'Zofia', 'Wojciech', 'Świętosława'],
     array['Wiśniewski', 'Dąbrowska', 'Źródłowski', 'Kowalczyk', 'Zając', 'Wójcik', 'Łęcka', 'Nowak'],
     array['ulica Długa', 'aleja Róż', 'plac Wolności', 'ulica Żurawia'],
     array['Łódź', 'Kraków', 'Gdańsk', 'Wrocław', 'Zielona Góra']),
    (3, 'ES', array['Spain', 'España', 'ES'], '+34', 1,
     array['José', 'María', 'Íñigo', 'Begoña', 'Álvaro', 'Lucía', 'Andrés', 'Nuño'],
     array['García López', 'Muñoz', 'Ibáñez', 'Peña', 'Rodríguez', 'Núñez', 'de la Fuente', 'Güell'],
     array['Calle Mayor', 'Avenida de la Constitución', 'Plaza de España', 'Camino Viejo'],
     array['Córdoba', 'León', 'A Coruña', 'Cádiz', 'Logroño']),
    (4, 'US', array['United States', 'USA', 'U.S.A.', 'us', 'Untied States'], '+1', -5,
     array['Mary-Jane', 'DeShawn', 'Harper', 'Liam', 'Aaliyah', 'Wyatt', 'Grace', 'Tyrone'],
     array['O''Connor', 'Smith', 'McAllister', 'Begay', 'Washington', 'St. John', 'Kowalski', 'Null'],
     array['Main St', 'Elm Street', 'W 42nd St', 'County Road'],
     array['Springfield', 'St. Louis', 'Coeur d''Alene', 'Boise', 'Las Cruces']),
    (5, 'GB', array['United Kingdom', 'UK', 'Great Britain', 'england'], '+44', 0,
     array['Siân', 'Nigel', 'Zoë', 'Alasdair', 'Priya', 'Rhys', 'Fionnuala', 'Imran'],
     array['Featherstonehaugh', 'Patel', 'MacLeod', 'ap Rhys', 'Smith-Jones', 'Khan', 'Ó Briain', 'Lee'],
     array['High Street', 'Station Road', 'The Green', 'Mill Lane'],
     array['Ynys Môn', 'Leeds', 'Stoke-on-Trent', 'Ballymena', 'Ely']),
    (6, 'JP', array['Japan', '日本', 'JP', 'japan'], '+81', 9,
     array['さくら', '太郎', '陽菜', '健', '美咲', '翔太', '花子', '蓮'],
     array['佐藤', '鈴木', '髙橋', '田中', '渡邉', '伊藤', '山本', '齋藤'],
     array['銀座', '道玄坂', '梅田', '河原町通'],
     array['東京', '大阪市', '京都市', '札幌市', '那覇市']),
    (7, 'TR', array['Turkey', 'Türkiye', 'TR', 'TÜRKİYE'], '+90', 3,
     array['Işıl', 'İbrahim', 'Çağla', 'Gökçe', 'Şebnem', 'Umut', 'Özgür', 'Ayşe'],
     array['Yılmaz', 'Kılıç', 'Öztürk', 'Çelik', 'Şahin', 'Doğan', 'Işık', 'Güneş'],
     array['Atatürk Caddesi', 'İstiklal Caddesi', 'Çınar Sokağı', 'Gül Sokak'],
     array['İstanbul', 'Eskişehir', 'Muğla', 'Iğdır', 'Ankara']),
    (8, 'GR', array['Greece', 'Ελλάδα', 'GR'], '+30', 2,
     array['Γιώργος', 'Ελένη', 'Σοφία', 'Νίκος', 'Χρήστος', 'Άννα', 'Θεόδωρος', 'Ζωή'],
     array['Παπαδόπουλος', 'Καρράς', 'Δημητρίου', 'Αγγελόπουλος', 'Ξένου', 'Ράπτης', 'Ψάλτης', 'Ωνάσης'],
     array['Οδός Ερμού', 'Λεωφόρος Αλεξάνδρας', 'Πλατεία Συντάγματος', 'Οδός Αθηνάς'],
     array['Αθήνα', 'Θεσσαλονίκη', 'Πάτρα', 'Ηράκλειο', 'Χανιά']),
    (9, 'SE', array['Sweden', 'Sverige', 'SE', 'sweden'], '+46', 1,
     array['Åsa', 'Björn', 'Örjan', 'Linnéa', 'Göran', 'Maja', 'Håkan', 'Elsa'],
     array['Åkesson', 'Östlund', 'Sjöberg', 'Lindström', 'Ängström', 'Nilsson', 'af Klint', 'Holm'],
     array['Storgatan', 'Björkvägen', 'Östra Ågatan', 'Kyrkogatan'],
     array['Malmö', 'Göteborg', 'Umeå', 'Växjö', 'Örebro']),
    (10, 'BR', array['Brazil', 'Brasil', 'BR', 'brazil '], '+55', -3,
     array['João', 'Conceição', 'Antônio', 'Luíza', 'Caê', 'Iracema', 'Tainá', 'Davi'],
     array['da Silva', 'Gonçalves', 'Araújo', 'Simões', 'dos Santos', 'Magalhães', 'Assunção', 'Sá'],
     array['Rua das Acácias', 'Avenida São João', 'Travessa do Carmo', 'Praça da Sé'],
     array['São Paulo', 'Maceió', 'Florianópolis', 'Belém', 'Goiânia']),
    (11, 'IN', array['India', 'भारत', 'IN', 'INDIA'], '+91', 5,
     array['आरव', 'Ananya', 'Rohan', 'दीपिका', 'Kavya', 'அருண்', 'Ishaan', 'Meera'],
     array['शर्मा', 'Iyer', 'Chattopadhyay', 'Singh', 'குமார்', 'Nair', 'Reddy', 'Das'],
     array['MG Road', 'Gandhi Nagar', 'Nehru Marg', 'Station Road'],
     array['मुंबई', 'Bengaluru', 'Chennai', 'Kolkata', 'Thiruvananthapuram'])
) as t (n, code, spellings, dial_code, utc_hours, first_names, last_names, streets, cities);
analyze country;

-- customers: 40,000 ------------------------------------------------------------------------------------------

create table customers (
    customer_id integer primary key,
    full_name text,
    email text,
    phone text,
    country text,
    birth_date text,
    newsletter text,
    credit_limit numeric(10, 2),
    created_at timestamptz not null,
    updated_at timestamptz not null,
    note text
);
comment on table customers is 'People who have an account, as three shop systems left them';

insert into customers
select
    i,
    case
        -- One name only, three names, and blanks at the end: what a free text field collects.
        when i % 1999 = 7 then pg_temp.choose(c.first_names, i, 2)
        when i % 97 = 5 then pg_temp.choose(c.first_names, i, 2) || ' ' || pg_temp.choose(c.first_names, i, 13)
            || ' ' || pg_temp.choose(c.last_names, i, 3)
        when i % 211 = 9 then pg_temp.choose(c.first_names, i, 2) || ' ' || pg_temp.choose(c.last_names, i, 3) || ' '
        else pg_temp.choose(c.first_names, i, 2) || ' ' || pg_temp.choose(c.last_names, i, 3)
    end,
    case
        when i % 31 = 3 then null
        when i % 7 = 1 then 'Customer.' || i || '@Example.COM'
        when i % 53 = 2 then ' customer.' || i || '@example.org '
        when i % 4 = 0 then 'CUSTOMER' || i || '@EXAMPLE.NET'
        else 'customer.' || i || '@example.com'
    end,
    case
        when i % 5 = 2 then null
        when i % 3 = 0 then c.dial_code || ' ' || lpad((pg_temp.pick(i, 4) % 1000000000)::text, 9, '0')
        when i % 3 = 1 then '0' || (pg_temp.pick(i, 4) % 1000) || '/' || (pg_temp.pick(i, 5) % 1000000)
        else '00' || substr(c.dial_code, 2) || '-' || (pg_temp.pick(i, 4) % 100000000)
    end,
    case when i % 41 = 11 then null else pg_temp.choose(c.spellings, i, 6) end,
    case
        when i % 23 = 4 then null
        -- Breaks the contract: no such day, another country's order of day and month, words.
        when i % 4001 = 17 then '1985-02-30'
        when i % 3989 = 29 then '31.12.1979'
        when i % 9973 = 101 then 'unknown'
        else (date '1935-01-01' + (pg_temp.pick(i, 7) % 26000)::integer)::text
    end,
    (array['yes', 'no', 'Yes', 'NO', 'y', 'n', 'true', 'false', '1', '0', null])[1 + pg_temp.pick(i, 8) % 11],
    case when i % 3 = 0 then round((pg_temp.pick(i, 9) % 1000000) / 100.0, 2) end,
    timestamptz '2023-01-01 00:00:00Z' + (pg_temp.pick(i, 10) % 63072000) * interval '1 second',
    timestamptz '2025-01-01 00:00:00Z' + (pg_temp.pick(i, 11) % 31535999) * interval '1 second'
        + (pg_temp.pick(i, 12) % 1000000) * interval '1 microsecond',
    case
        when i % 389 = 1 then E'Calls back after 6 pm.\nAsk for "the big parcel".'
        when i % 397 = 2 then E'Prefers\tinvoice; VAT id pending \\ see ticket'
        when i % 401 = 3 then 'Very happy 😀, ordered 3 × again'
        when i % 409 = 4 then ''
    end
from generate_series(1, 40000) as i
join country c on c.n = pg_temp.pick(i, 1) % 12;

-- addresses: 50,000 ------------------------------------------------------------------------------------------

create table addresses (
    address_id integer primary key,
    customer_id integer not null references customers,
    kind text not null,
    street text,
    house_number text,
    postal_code text,
    city text,
    country_code char(2) not null,
    valid_from date not null,
    deleted_at timestamptz
);

insert into addresses
select
    i,
    customer_id,
    case when i <= 40000 then 'billing' else 'shipping' end,
    pg_temp.choose(c.streets, i, 21),
    case when i % 37 = 0 then null else (1 + pg_temp.pick(i, 22) % 180)
        || (array['', '', '', '', 'a', ' b', '/2', '-12'])[1 + pg_temp.pick(i, 23) % 8] end,
    case when i % 59 = 0 then null else lpad((pg_temp.pick(i, 24) % 100000)::text, 5, '0') end,
    case when i % 43 = 0 then upper(pg_temp.choose(c.cities, i, 25) collate "C") else pg_temp.choose(c.cities, i, 25) end,
    c.code,
    date '2023-01-01' + (pg_temp.pick(i, 26) % 1000)::integer,
    case when i % 50 = 49 then timestamptz '2025-06-01 12:00:00Z' + (i % 86400) * interval '1 second' end
from (
    select i, case when i <= 40000 then i else 1 + pg_temp.pick(i, 20) % 40000 end as customer_id
    from generate_series(1, 50000) as i
) as a
join country c on c.n = pg_temp.pick(a.customer_id, 1) % 12;

-- products: 2,000 --------------------------------------------------------------------------------------------

create table products (
    product_id integer primary key,
    sku text not null unique,
    title text not null,
    category text not null,
    price text,
    weight_grams integer,
    attributes jsonb,
    launched_on date
);
comment on column products.price is 'As typed by the buyers; text since 2009';

insert into products
select
    i,
    upper((array['kit', 'gar', 'off', 'toy'])[1 + i % 4]) || '-' || lpad(i::text, 5, '0'),
    (array['Café', 'Smörgås', 'Petit', 'Großer', 'Nippon', 'Basic', '"Deluxe"', 'Éclair'])[1 + pg_temp.pick(i, 31) % 8]
        || ' ' || (array['kettle', 'lamp', 'notebook', 'puzzle', 'rake', 'teapot', 'robot', 'chair'])[1 + pg_temp.pick(i, 32) % 8]
        || ' ' || (array['½ l', 'XL', '№ 5', 'mini', '40 cm', '2-pack'])[1 + pg_temp.pick(i, 33) % 6],
    (array['Home > Kitchen', 'Garden > Tools > Small', 'Office', 'Toys > Wooden'])[1 + i % 4],
    case
        when i % 401 = 13 then 'N/A'
        when i % 487 = 29 then '12,50'
        when i % 991 = 77 then 'on request'
        when i % 89 = 3 then null
        else round((99 + pg_temp.pick(i, 34) % 40000) / 100.0, 2)::text
    end,
    case when i % 11 = 0 then null else 20 + pg_temp.pick(i, 35) % 9000 end,
    case when i % 13 = 0 then null else jsonb_build_object(
        'colour', (array['rot', 'vert', '青', 'black', 'květinová'])[1 + pg_temp.pick(i, 36) % 5],
        'warranty_months', 12 * (pg_temp.pick(i, 37) % 4), 'fragile', i % 6 = 0) end,
    date '2019-01-01' + (pg_temp.pick(i, 38) % 2000)::integer
from generate_series(1, 2000) as i;

-- orders: 100,000 --------------------------------------------------------------------------------------------

create table orders (
    order_id bigint primary key,
    customer_id integer,
    status text not null,
    currency char(3) not null,
    placed_at timestamptz not null,
    placed_local text not null,
    shipping_cost numeric(10, 2) not null,
    coupon text
);
comment on column orders.placed_local is 'Wall clock of the customer with its offset, as the browser sent it';

insert into orders
select
    i,
    -- A guest's order without an account breaks the contract of the warehouse.
    case when i % 4999 = 41 then null else customer_id end,
    (array['paid', 'paid', 'PAID', 'shipped', 'Shipped', 'returned', 'cancelled', 'canceled'])[1 + pg_temp.pick(i, 41) % 8],
    case c.code when 'US' then 'USD' when 'GB' then 'GBP' when 'JP' then 'JPY' when 'SE' then 'SEK' else 'EUR' end,
    placed_at,
    to_char((placed_at at time zone 'UTC') + c.utc_hours * interval '1 hour', 'YYYY-MM-DD"T"HH24:MI:SS')
        || case when c.utc_hours < 0 then '-' else '+' end || lpad(abs(c.utc_hours)::text, 2, '0') || ':00',
    round((pg_temp.pick(i, 42) % 2500) / 100.0, 2),
    (array['SPRING24', 'spring24', 'WELCOME', null, null, null, null, null])[1 + pg_temp.pick(i, 43) % 8]
from (
    select
        i,
        1 + pg_temp.pick(i, 40) % 40000 as customer_id,
        timestamptz '2023-01-01 00:00:00Z' + (i::bigint * 946 + pg_temp.pick(i, 44) % 946) * interval '1 second'
            + (pg_temp.pick(i, 45) % 1000) * interval '1 millisecond' as placed_at
    from generate_series(1, 100000) as i
) as o
join country c on c.n = pg_temp.pick(o.customer_id, 1) % 12;

-- order_lines: about 220,000 ---------------------------------------------------------------------------------

create table order_lines (
    order_id bigint not null,
    line_number smallint not null,
    product_id integer not null,
    quantity smallint not null,
    unit_price numeric(12, 4) not null,
    discount numeric(4, 3),
    gift_note varchar(80)
);

insert into order_lines
select
    i,
    line,
    1 + pg_temp.pick(i * 8 + line, 51) % 2000,
    1 + pg_temp.pick(i * 8 + line, 52) % 4,
    round((990000 + pg_temp.pick(i * 8 + line, 53) % 400000000) / 1000000.0, 4),
    case when i % 6 = 0 then round((pg_temp.pick(i * 8 + line, 54) % 400) / 1000.0, 3) end,
    case when (i * 8 + line) % 83 = 0
        then (array['Alles Gute!', 'Bon anniversaire à toi', 'おめでとう', 'Χρόνια πολλά', 'With love 💐'])[1 + pg_temp.pick(i, 55) % 5] end
from generate_series(1, 100000) as i,
    lateral generate_series(1, (array[1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5])[1 + pg_temp.pick(i, 50) % 20]) as line;

-- Checked once for the whole table, which takes half the time of checking each row.
alter table order_lines
    add primary key (order_id, line_number),
    add foreign key (order_id) references orders,
    add foreign key (product_id) references products;

-- payments: about 95,000, from a provider's export: no key, so that nothing stops a row that came twice -------

create table payments (
    payment_id uuid not null,
    order_id bigint,
    method text not null,
    amount numeric(12, 2) not null,
    fee text,
    card_number text,
    paid_at timestamptz not null
);

insert into payments
select
    md5('payment ' || i)::uuid,
    case when i % 7001 = 3 then null else i end,
    (array['card', 'Card', 'paypal', 'PayPal', 'invoice', 'sepa'])[1 + pg_temp.pick(i, 61) % 6],
    round((500 + pg_temp.pick(i, 62) % 90000) / 100.0, 2) * case when i % 61 = 0 then -1 else 1 end,
    case
        when i % 9001 = 8 then 'pending'
        when i % 11003 = 14 then '0,35 EUR'
        when i % 17 = 0 then null
        else round((pg_temp.pick(i, 63) % 400) / 100.0, 2)::text
    end,
    case when pg_temp.pick(i, 61) % 6 < 2 then '4' || lpad((pg_temp.pick(i, 64) * 7919 % 1000000000000000)::text, 15, '0') end,
    timestamptz '2023-01-01 00:05:00Z' + (i::bigint * 946 + pg_temp.pick(i, 65) % 86400) * interval '1 second'
from generate_series(1, 100000) as i
where i % 20 <> 19;

-- Six payments were delivered twice.
insert into payments
select * from payments where order_id in (1000, 20000, 40000, 60000, 80000, 100000);

analyze customers, addresses, products, orders, order_lines, payments;
