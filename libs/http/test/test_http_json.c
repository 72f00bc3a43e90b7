/*
 * test_http_json.c - values as JSON: numbers, strings of any bytes, arrays good and bad, the limit.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../neon_http_json.h"

static void *
grow(void *p, size_t n)
{
	if (n == 0)
	{
		free(p);
		return NULL;
	}
	return realloc(p, n);
}

static void
check_value(uint32_t oid, const char *in, const char *want)
{
	NhBuf		b = {.realloc = grow,.limit_bytes = 1 << 20};

	nh_json_value(&b, oid, in, strlen(in));
	nh_putc(&b, '\0');
	assert_false(b.failed);
	assert_string_equal(b.data, want);
	free(b.data);
}

static void
scalars(void **state)
{
	check_value(16, "t", "true");
	check_value(16, "f", "false");
	check_value(23, "-7", "-7");
	check_value(21, "0", "0");
	check_value(20, "9007199254740993", "\"9007199254740993\"");
	check_value(1700, "1.10", "\"1.10\"");
	check_value(701, "1e+300", "1e+300");
	check_value(701, "0.1", "0.1");
	check_value(701, "NaN", "\"NaN\"");
	check_value(701, "-Infinity", "\"-Infinity\"");
	check_value(701, "01", "\"01\"");
	check_value(701, "1.", "\"1.\"");
	check_value(3802, "{\"a\": [1, null]}", "{\"a\": [1, null]}");
	check_value(25, "", "\"\"");
	check_value(25, "a\"b\\c\n\t\x01", "\"a\\\"b\\\\c\\n\\t\\u0001\"");
}

static void
strings(void **state)
{
	check_value(25, "gr\xc3\xbc\xc3\x9f \xf0\x9f\x8d\x8e", "\"gr\xc3\xbc\xc3\x9f \xf0\x9f\x8d\x8e\"");
	check_value(25, "\xff", "\"\\ufffd\"");
	check_value(25, "\xc0\x80", "\"\\ufffd\\ufffd\"");	/* overlong */
	check_value(25, "\xed\xa0\x80", "\"\\ufffd\\ufffd\\ufffd\"");	/* surrogate */
	check_value(25, "a\xe2\x82", "\"a\\ufffd\\ufffd\"");	/* cut off */
	check_value(25, "\xf4\x90\x80\x80", "\"\\ufffd\\ufffd\\ufffd\\ufffd\"");
}

static void
arrays(void **state)
{
	check_value(1007, "{}", "[]");
	check_value(1007, "{1,NULL,-3}", "[1,null,-3]");
	check_value(1007, "[0:1]={1,2}", "[1,2]");
	check_value(1007, "{{1,2},{3,4}}", "[[1,2],[3,4]]");
	check_value(1000, "{t,f,NULL}", "[true,false,null]");
	check_value(1009, "{a,\"b c\",\"NULL\",NULL,\"\",\"q\\\"\\\\\"}", "[\"a\",\"b c\",\"NULL\",null,\"\",\"q\\\"\\\\\"]");
	check_value(3807, "{\"{\\\"a\\\": 1}\",null}", "[{\"a\": 1},null]");
	check_value(1022, "{NaN,1.5}", "[\"NaN\",1.5]");
	check_value(1016, "{9007199254740993}", "[\"9007199254740993\"]");
}

static void
bad_arrays(void **state)
{
	check_value(1007, "", "\"\"");
	check_value(1007, "{", "\"{\"");
	check_value(1007, "{1", "\"{1\"");
	check_value(1007, "{1,}", "\"{1,}\"");
	check_value(1007, "{1}x", "\"{1}x\"");
	check_value(1007, "[0:1]", "\"[0:1]\"");
	check_value(1009, "{\"a", "\"{\\\"a\"");
	check_value(1009, "{\"a\\", "\"{\\\"a\\\\\"");
	check_value(1007, "{{{{{{{{{{1}}}}}}}}}}", "\"{{{{{{{{{{1}}}}}}}}}}\"");
}

static void
limit(void **state)
{
	NhBuf		b = {.realloc = grow,.limit_bytes = 10};

	nh_puts(&b, "1234567890");
	assert_false(b.failed);
	nh_putc(&b, 'x');
	assert_true(b.failed);
	nh_put(&b, "", 0);
	assert_true(b.failed);
	assert_int_equal(b.len, 10);
	free(b.data);
}

/* A queue that is never empty: the limit is of what waits in it, not of all that came through. */
static void
queue(void **state)
{
	NhBuf		b = {.realloc = grow,.limit_bytes = 100};
	size_t		taken = 0;
	unsigned char next = 0;
	unsigned char seen = 0;

	for (int i = 0; i < 1000; i++)
	{
		unsigned char data[10];

		for (size_t n = 0; n < sizeof(data); n++)
			data[n] = next++;
		nh_put_behind(&b, &taken, data, sizeof(data));
		assert_false(b.failed);
		for (; b.len - taken > 3; taken++)
			assert_int_equal((unsigned char) b.data[taken], seen++);
	}
	for (int i = 0; i < 9; i++)
		nh_put_behind(&b, &taken, "0123456789", 10);
	assert_false(b.failed);
	nh_put_behind(&b, &taken, "0123456789", 10);
	assert_true(b.failed);
	free(b.data);
}

static void
array_literals(void **state)
{
	NhBuf		b = {.realloc = grow,.limit_bytes = 100};

	nh_array_string(&b, "a\"b\\c\n", 6);
	nh_putc(&b, '\0');
	assert_string_equal(b.data, "\"a\\\"b\\\\c\n\"");
	free(b.data);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(scalars), cmocka_unit_test(strings), cmocka_unit_test(arrays), cmocka_unit_test(bad_arrays), cmocka_unit_test(limit), cmocka_unit_test(queue),
		cmocka_unit_test(array_literals)
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
