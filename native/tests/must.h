/* What has to be true in every run, also where assert() is compiled away. */
#pragma once

#include <stdio.h>
#include <stdlib.h>

#define must(condition) ((condition) ? (void)0 : must__fail(__FILE__, __LINE__, #condition))

__attribute__((noreturn, unused)) static void must__fail(const char *file, int line,
							 const char *condition)
{
	fprintf(stderr, "%s:%d: must be true: %s\n", file, line, condition);
	abort();
}
