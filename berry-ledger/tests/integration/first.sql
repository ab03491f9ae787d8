-- A database as the first version made it, with three rows and their sums. {words} differ between SQLite and PostgreSQL.
CREATE TABLE name (id {identity} PRIMARY KEY, kind BIGINT NOT NULL, text TEXT NOT NULL, UNIQUE (kind, text));
CREATE TABLE journal (id BIGINT PRIMARY KEY, segment BIGINT NOT NULL, place BIGINT NOT NULL, rolled_segment BIGINT NOT NULL,
    rolled_place BIGINT NOT NULL);
CREATE TABLE request (id {key} PRIMARY KEY, process_id BIGINT NOT NULL, counter BIGINT NOT NULL, client_request_id TEXT,
    user_id BIGINT NOT NULL, end_user TEXT, labels TEXT, model_id BIGINT NOT NULL, provider_id BIGINT NOT NULL,
    upstream_id BIGINT NOT NULL, error_id BIGINT NOT NULL, status BIGINT NOT NULL, flags BIGINT NOT NULL, ttft_us BIGINT,
    duration_us BIGINT NOT NULL, input BIGINT, cached BIGINT, cache_write BIGINT, output BIGINT, reasoning BIGINT, cost BIGINT,
    more {blob}, attempts {blob});
CREATE TABLE span (process_id BIGINT NOT NULL, slot BIGINT NOT NULL, low BIGINT NOT NULL, high BIGINT NOT NULL,
    PRIMARY KEY (process_id, slot)){clustered};
CREATE TABLE spend_hour (slot BIGINT NOT NULL, user_id BIGINT NOT NULL, model_id BIGINT NOT NULL, {sums},
    PRIMARY KEY (slot, user_id, model_id)){clustered};
CREATE TABLE spend_day (slot BIGINT NOT NULL, user_id BIGINT NOT NULL, model_id BIGINT NOT NULL, {sums},
    PRIMARY KEY (slot, user_id, model_id)){clustered};
CREATE TABLE traffic_minute (slot BIGINT NOT NULL, model_id BIGINT NOT NULL, provider_id BIGINT NOT NULL, upstream_id BIGINT NOT NULL,
    status BIGINT NOT NULL, error_id BIGINT NOT NULL, {sums},
    PRIMARY KEY (slot, model_id, provider_id, upstream_id, status, error_id)){clustered};
CREATE TABLE traffic_hour (slot BIGINT NOT NULL, model_id BIGINT NOT NULL, provider_id BIGINT NOT NULL, upstream_id BIGINT NOT NULL,
    status BIGINT NOT NULL, error_id BIGINT NOT NULL, {sums},
    PRIMARY KEY (slot, model_id, provider_id, upstream_id, status, error_id)){clustered};
CREATE TABLE latency_minute (slot BIGINT NOT NULL, model_id BIGINT NOT NULL, provider_id BIGINT NOT NULL, upstream_id BIGINT NOT NULL,
    ttft {blob} NOT NULL, duration {blob} NOT NULL, PRIMARY KEY (slot, model_id, provider_id, upstream_id)){clustered};
CREATE TABLE latency_hour (slot BIGINT NOT NULL, model_id BIGINT NOT NULL, provider_id BIGINT NOT NULL, upstream_id BIGINT NOT NULL,
    ttft {blob} NOT NULL, duration {blob} NOT NULL, PRIMARY KEY (slot, model_id, provider_id, upstream_id)){clustered};
INSERT INTO name (kind, text) VALUES
    (6, '000000000002a'),
    (1, 'team_a'),
    (2, 'fast'),
    (3, 'openai'),
    (4, 'gpt-4o'),
    (5, 'stream_incomplete'),
    (5, 'cancelled');
INSERT INTO journal VALUES (8,1,291,1,291);
INSERT INTO request VALUES (1809992908801024279,1,1,NULL,2,NULL,NULL,3,4,5,0,200,4,9200,20000,100,NULL,NULL,20,NULL,1000,NULL,X'1f9601a946b89401');
INSERT INTO request VALUES (1809992908805120275,1,5,'job-7',2,'é-user','team=a,job=7',3,4,5,6,200,7,9200,20000,100,60,0,50,20,1000,X'00030701084d',X'06960100b8940106617a7572650d726174655f6c696d69746564ad031bb0ea01a946b89401067265747279');
INSERT INTO request VALUES (1809995980800000982,1,3000000,NULL,0,NULL,NULL,0,0,0,7,0,4,NULL,20000,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO span VALUES (1,29459520,1,5);
INSERT INTO span VALUES (1,29459570,3000000,3000000);
INSERT INTO spend_hour VALUES (490992,0,0,1,1,0,0,0,0,0,0,0,0,20000);
INSERT INTO spend_hour VALUES (490992,2,3,2,1,200,60,0,70,20,2000,2,18400,40000);
INSERT INTO spend_day VALUES (20458,0,0,1,1,0,0,0,0,0,0,0,0,20000);
INSERT INTO spend_day VALUES (20458,2,3,2,1,200,60,0,70,20,2000,2,18400,40000);
INSERT INTO traffic_minute VALUES (29459520,3,4,5,200,0,1,0,100,0,0,20,0,1000,1,9200,20000);
INSERT INTO traffic_minute VALUES (29459520,3,4,5,200,6,1,1,100,60,0,50,20,1000,1,9200,20000);
INSERT INTO traffic_minute VALUES (29459570,0,0,0,0,7,1,1,0,0,0,0,0,0,0,0,20000);
INSERT INTO traffic_hour VALUES (490992,0,0,0,0,7,1,1,0,0,0,0,0,0,0,0,20000);
INSERT INTO traffic_hour VALUES (490992,3,4,5,200,0,1,0,100,0,0,20,0,1000,1,9200,20000);
INSERT INTO traffic_hour VALUES (490992,3,4,5,200,6,1,1,100,60,0,50,20,1000,1,9200,20000);
INSERT INTO latency_minute VALUES (29459520,3,4,5,X'580002000000',X'610002000000');
INSERT INTO latency_minute VALUES (29459570,0,0,0,X'',X'610001000000');
INSERT INTO latency_hour VALUES (490992,0,0,0,X'',X'610001000000');
INSERT INTO latency_hour VALUES (490992,3,4,5,X'580002000000',X'610002000000');
