// Type check of the dashboard: `make grafana` appends config/grafana-dashboard.json to this file, and checks the JSON against the
// types that Grafana publishes for dashboards. Grafana publishes no types for the additional parts of a dashboard that is exported
// for sharing, so this file defines these types. The options of each kind of panel have the types of this kind. Grafana sets the
// options that the JSON omits.

import type { Dashboard, FieldConfig, Panel, RowPanel, VariableModel } from "@grafana/schema";
import type * as Stat from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type * as Table from "@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
import type * as TimeSeries from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

// The JSON contains the values of enumerations instead of their names.
type Written<T> = unknown extends T ? T
  : T extends string ? `${T}`
  : T extends (infer U)[] ? Written<U>[]
  : T extends object ? { [K in keyof T]: Written<T[K]> }
  : T;
type Shown<Kind extends string, Options, Custom> = Omit<Written<Panel>, "type" | "options" | "fieldConfig"> & {
  type: Kind;
  options: Written<Partial<Options>>;
  fieldConfig: Omit<Written<NonNullable<Panel["fieldConfig"]>>, "defaults"> & {
    defaults: Omit<Written<FieldConfig>, "custom"> & { custom: Written<Partial<Custom>> };
  };
};
type AnyPanel = Written<RowPanel> | Shown<"stat", Stat.Options, {}> | Shown<"table", Table.Options, Table.FieldConfig>
  | Shown<"timeseries", TimeSeries.Options, TimeSeries.FieldConfig>;
type Variable = Written<VariableModel> & { definition?: string };
type Import = Omit<Written<Dashboard>, "panels" | "templating"> & {
  panels: AnyPanel[];
  templating: { list: Variable[] };
  __inputs: Record<string, string>[];
  __elements: {};
  __requires: Record<string, string>[];
};
export const dashboard: Import =
